"""A run that dies at any point and is started again ends as if nothing had happened.

The sites keep real state on disk and what they send depends on it, but they add numbers instead of training.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    ScriptedTransport,
    constant_update,
    make_experiment,
    make_federation,
    make_run,
    make_site_data,
    newest_sha256,
    opened,
    scripted_site,
    site_key,
)

from medseg_client.site_state import SiteState
from medseg_core.errors import CheckpointError
from medseg_core.federation.checkpoint import load_checkpoint
from medseg_core.federation.codec import encode_tensors, read_tensors
from medseg_core.files import sha256_of
from medseg_core.wire.envelope import Envelope, seal
from medseg_server import rounds
from medseg_server.errors import SiteAnswersError
from medseg_server.rounds import Run, Trained, train
from medseg_server.run_store import RunStore

EXPERIMENT = make_experiment(
    federation={"rounds": 3, "optimiser_memory": True, "server_momentum": 0.5, "participants": 2, "seed": 2}
)
SITES = ("north", "south", "west")


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


class Fuse:
    """Burns at the n-th of the points that a run passes; 0 never."""

    def __init__(self, at: int) -> None:
        self.at, self.passed = at, 0

    def point(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            raise Killed


def remembering_site(site: str, folder: Path, fuse: Fuse) -> Callable[[Envelope], bytes]:
    """Its update grows with the number of its updates that counted; its score is best for the model of round 2."""
    plain, state = scripted_site(site, constant_update(EXPERIMENT, 0.0), dice=score), SiteState(folder)

    def answer(request: Envelope) -> bytes:
        fuse.point()
        header, data = request.header, request.to_bytes()
        if (stored := state.recall(header, sha256_of(data))) is not None:
            return stored
        reply, memory = plain(request), {}
        if header.kind == "train":
            before = state.memory_at(header) or {"optimiser": {"n": np.zeros(1, np.float32)}}
            trained = before["optimiser"]["n"] + 1
            memory = {"optimiser": {"n": trained}}
            update = constant_update(EXPERIMENT, 0.01 * float(trained[0]) * (1 + SITES.index(site)))(request)
            reply = seal(opened(reply).header, encode_tensors(update), site_key(site)).to_bytes()
        state.commit(header, sha256_of(data), reply, memory=memory)
        fuse.point()
        return reply

    return answer


def score(request: Envelope) -> float:
    level = np.mean([tensor.mean(dtype=np.float64) for tensor in read_tensors(request.payload).values()])
    return round(1 / (1 + abs(float(level) - 0.12)), 6)


def open_run(folder: Path, fuse: Fuse) -> Run:
    answers = {site: remembering_site(site, folder / "sites" / site, fuse) for site in SITES}
    return make_run(folder / "run", EXPERIMENT, ScriptedTransport(answers))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fuse], None]:
    """Points before and after everything that the coordinator writes; an event may be cut in two."""
    write_event, save = RunStore.event, rounds.save_checkpoint

    def light(fuse: Fuse) -> None:
        def event(store: RunStore, name: str, **facts: Any) -> None:
            fuse.point()
            size = (store.folder / "events.jsonl").stat().st_size if fuse.passed > 1 else 0
            write_event(store, name, **facts)
            try:
                fuse.point()
            except Killed:
                whole = (store.folder / "events.jsonl").stat().st_size
                os.truncate(store.folder / "events.jsonl", (size + whole) // 2)
                raise
            fuse.point()

        def save_checkpoint(*arguments: Any) -> Path:
            fuse.point()
            path = save(*arguments)
            fuse.point()
            return path

        monkeypatch.setattr(RunStore, "event", event)
        monkeypatch.setattr(rounds, "save_checkpoint", save_checkpoint)

    return light


def outcome(run: Run, trained: Trained) -> dict[str, Any]:
    """All of a result that does not depend on the clock."""
    kept = [path.name for path in run.store.checkpoints.iterdir()]
    assert f"round_{trained.best_round:04d}" in kept
    assert len(kept) <= 4
    return {
        "weights": newest_sha256(run.store),
        "best": trained.best_round,
        "scores": [(r["round"], r["validation_dice"], r["sites"]) for r in trained.history],
        "sites": [{s: c["cases"] for s, c in r["contributed"].items()} for r in trained.history],
    }


def finish(folder: Path) -> dict[str, Any]:
    run = open_run(folder, Fuse(0))
    return outcome(run, train(run))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result = finish(tmp_path_factory.mktemp("undisturbed"))
    assert result["best"] == 2
    return result


@pytest.mark.slow
def test_a_run_killed_at_any_point_ends_as_if_it_had_not_been(
    tmp_path: Path, fused: Callable[[Fuse], None], undisturbed: dict[str, Any]
) -> None:
    at = 0
    while True:
        at += 1
        fuse, folder = Fuse(at), tmp_path / str(at)
        fused(fuse)
        try:
            train(open_run(folder, fuse))
        except Killed:
            fused(Fuse(0))
            assert finish(folder) == undisturbed, f"killed at point {at}"
        else:
            break
    assert at > 50


def test_a_run_killed_again_and_again_gets_there(
    tmp_path: Path, fused: Callable[[Fuse], None], undisturbed: dict[str, Any]
) -> None:
    for at in range(4, 40, 5):
        fuse = Fuse(at)
        fused(fuse)
        try:
            train(open_run(tmp_path, fuse))
        except Killed:
            continue
    fused(Fuse(0))
    assert finish(tmp_path) == undisturbed


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    "damaged", ["weights.safetensors", "memory.safetensors", "state.json", "manifest.json"]
)
def test_a_torn_checkpoint_sends_the_run_back_one_round(
    tmp_path: Path, fused: Callable[[Fuse], None], undisturbed: dict[str, Any], number: int, damaged: str
) -> None:
    run = open_run(tmp_path, Fuse(0))
    with pytest.raises(Killed):
        train(Run(run.identifier, run.experiment, run.coordinator, run.transport, run.store, killer(number)))
    newest = run.store.checkpoints / f"round_{number:04d}"
    os.truncate(newest / damaged, (newest / damaged).stat().st_size // 2)
    with pytest.raises(CheckpointError):
        load_checkpoint(newest)
    assert finish(tmp_path) == undisturbed
    assert len(run.store.events("torn")) == 1


def killer(number: int) -> Callable[[dict[str, Any]], None]:
    """Kills when the evaluation of a round is done."""

    def on_round(record: dict[str, Any]) -> None:
        if record["round"] == number and "validation_dice" in record:
            raise Killed

    return on_round


def test_a_finished_run_that_is_resumed_trains_nothing(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    finish(tmp_path)
    run = open_run(tmp_path, Fuse(0))
    assert outcome(run, train(run)) == undisturbed
    assert {envelope.header.kind for envelope in run.transport.sent} == {"describe"}


def test_attempts_count_across_processes(tmp_path: Path, fused: Callable[[Fuse], None]) -> None:
    for _ in range(3):
        run = open_run(tmp_path, Fuse(0))
        answers = run.transport.answers
        run.transport.answers = answers | {
            "south": killing(answers["south"]),
            "west": killing(answers["west"]),
        }
        with pytest.raises(Killed):
            train(run)
    assert [e["attempt"] for e in run.store.events("round_started")] == [1, 2, 3]


def killing(plain: Callable[[Envelope], bytes]) -> Callable[[Envelope], bytes]:
    def answer(request: Envelope) -> bytes:
        if request.header.kind == "train":
            raise Killed
        return plain(request)

    return answer


def test_a_site_that_is_away_at_the_resume_is_still_a_site_of_the_run(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"rounds": 2, "quorum": 2})
    answers = {s: scripted_site(s, constant_update(experiment, 0.1)) for s in SITES}
    run = make_run(tmp_path, experiment, ScriptedTransport(answers))
    with pytest.raises(Killed):
        train(Run(run.identifier, run.experiment, run.coordinator, run.transport, run.store, killer(1)))
    away = answers | {"west": lambda request: None}
    resumed = train(
        make_run(tmp_path, experiment, ScriptedTransport(away, connected=("north", "south")), SITES)
    )
    assert resumed.history[1]["absent"] == {"west": "deadline"}
    assert sorted(resumed.cases) == ["north", "south", "west"]


def test_a_site_that_left_the_roster_is_named_as_absent(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"rounds": 2, "quorum": 2})
    answers = {s: scripted_site(s, constant_update(experiment, 0.1)) for s in SITES}
    run = make_run(tmp_path, experiment, ScriptedTransport(answers))
    with pytest.raises(Killed):
        train(Run(run.identifier, run.experiment, run.coordinator, run.transport, run.store, killer(1)))
    transport = ScriptedTransport(answers)
    resumed = train(make_run(tmp_path, experiment, transport, ("north", "south")))
    assert resumed.history[1]["absent"] == {"west": "not_enrolled"}
    assert "west" not in {envelope.header.site for envelope in transport.sent}


def test_a_run_whose_data_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    experiment = make_experiment()
    answers = {s: scripted_site(s, constant_update(experiment, 0.1), cases=3) for s in SITES}
    train(make_run(tmp_path, experiment, ScriptedTransport(answers)))
    answers["south"] = scripted_site("south", constant_update(experiment, 0.1), cases=4)
    with pytest.raises(SiteAnswersError, match=r"south \(its cases changed since the run began\)"):
        train(make_run(tmp_path, experiment, ScriptedTransport(answers)))


@pytest.mark.parametrize("point", [5, 14, 20, 24])
def test_real_training_resumes_to_the_same_bits(
    tmp_path: Path, fused: Callable[[Fuse], None], point: int
) -> None:
    experiment = make_experiment(federation={"rounds": 2, "optimiser_memory": True, "server_momentum": 0.5})
    data = {site: make_site_data(site, train=2) for site in ("north", "south")}
    plain = make_federation(tmp_path / "plain", experiment, data)
    expected = train(plain)
    fused(Fuse(point))
    with pytest.raises(Killed):
        train(make_federation(tmp_path / "killed", experiment, data))
    fused(Fuse(0))
    again = make_federation(tmp_path / "killed", experiment, data)
    assert outcome(again, train(again)) == outcome(plain, expected)
