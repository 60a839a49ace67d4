"""Models and updates written by a codec, through the whole loop: fewer bytes, no bit lost, and nobody left behind."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    initial_weights,
    make_experiment,
    make_federation,
    make_site_data,
    newest_sha256,
    newest_weights,
)
from safetensors.numpy import load_file

from medseg_core.config import Experiment
from medseg_core.federation.checkpoint import load_checkpoint, newest_checkpoint
from medseg_core.federation.update import Tensors
from medseg_core.learning.identity import global_sha256
from medseg_core.wire.envelope import Envelope
from medseg_server import evaluating
from medseg_server.rounds import Run, train

SITES = ("east", "north", "south")
CODECS = ("fp16", "bf16", "int8", "ternary", "topk")


def experiment_of(codec: str, rounds: int = 3, **more: Any) -> Experiment:
    return make_experiment(federation={"rounds": rounds, **more}, codec={"name": codec})


def run_in(folder: Path, experiment: Experiment) -> Any:
    data = {site: make_site_data(site, train=1 + n % 2) for n, site in enumerate(SITES)}
    return make_federation(folder, experiment, data)


def distance(a: Tensors, b: Tensors) -> float:
    return float(np.sqrt(sum(float(np.square(a[name] - b[name]).sum()) for name in a)))


def train_requests(run: Run, site: str) -> list[Envelope]:
    """What a site was asked for in training rounds, in order."""
    return [r for r in run.transport.sent if r.header.kind == "train" and r.header.site == site]


def disturbed(run: Run, site: str, number: int, disturb: Callable[[Envelope], bool]) -> Run:
    """The run with something done before a site trains in a round; true: its answer is lost."""
    answer = run.transport.answers[site]

    def answering(request: Envelope) -> bytes | None:
        if (request.header.kind, request.header.round) == ("train", number) and disturb(request):
            return None
        return answer(request)

    run.transport.answers = {**run.transport.answers, site: answering}
    return run


def bytes_up(run: Any) -> int:
    return sum(c["bytes_up"] for e in run.store.events("round_finished") for c in e["contributed"].values())


@pytest.mark.parametrize("codec", ["ternary", "topk"])
def test_updates_that_a_bound_lets_pass_without_a_codec_pass_with_one(tmp_path: Path, codec: str) -> None:
    plain = run_in(tmp_path / "plain", experiment_of("fp32"))
    train(plain)
    norms = [
        n["update_norm"] for e in plain.store.events("round_finished") for n in e["contributed"].values()
    ]
    bounded = run_in(tmp_path / "bounded", experiment_of(codec, max_update_norm=1.1 * max(norms)))
    train(bounded)
    assert [len(e["contributed"]) for e in bounded.store.events("round_finished")] == [len(SITES)] * 3


@pytest.mark.parametrize("codec", CODECS)
def test_a_crash_after_any_round_changes_no_bit(tmp_path: Path, codec: str) -> None:
    experiment = experiment_of(codec)
    whole = run_in(tmp_path / "whole", experiment)
    train(whole)

    def crash(record: dict[str, Any]) -> None:
        if record["round"] == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(replace(run_in(tmp_path / "broken", experiment), on_round=crash))
    again = run_in(tmp_path / "broken", experiment)
    train(again)
    assert newest_sha256(again.store) == newest_sha256(whole.store)


def test_a_run_with_codecs_ends_near_the_one_without(tmp_path: Path) -> None:
    runs = {codec: run_in(tmp_path / codec, experiment_of(codec, rounds=6)) for codec in ("fp32", *CODECS)}
    for run in runs.values():
        train(run)
    start, end = initial_weights(experiment_of("fp32")), newest_weights(runs["fp32"])
    moved = distance(start, end)

    away = {codec: distance(end, newest_weights(run)) / moved for codec, run in runs.items()}

    assert away["fp16"] < away["int8"] < 0.2
    assert bytes_up(runs["topk"]) < bytes_up(runs["int8"]) < bytes_up(runs["fp16"]) < bytes_up(runs["fp32"])


@pytest.mark.parametrize("codec", ["fp32", "int8", "ternary", "topk"])
def test_feddyns_sites_and_server_keep_the_same_gradient_whatever_a_codec_took(
    tmp_path: Path, codec: str
) -> None:
    """The server's h is the mean of what the sites keep, or the fixed point of the rule moves."""
    experiment = make_experiment(
        federation={"rounds": 4, "algorithm": "feddyn"},
        training={"optimiser": "sgd", "learning_rate": 0.02},
        codec={"name": codec},
    )
    run = run_in(tmp_path, experiment)
    train(run)
    checkpoint = newest_checkpoint(run.store.checkpoints, on_torn=lambda why: None)
    assert checkpoint is not None
    kept = {
        site: load_file(
            max((tmp_path / "sites" / site).rglob("memory.safetensors"), key=lambda f: f.parent.name)
        )
        for site in SITES
    }
    cases = run.store.events("described")[0]["sites"]
    total = sum(counts["train_cases"] for counts in cases.values())
    for name, h in checkpoint.state.memory["h"].items():
        mean = sum(kept[s][f"gradient/{name}"] * (cases[s]["train_cases"] / total) for s in SITES)
        np.testing.assert_allclose(h, mean, atol=1e-7)


def test_what_is_left_over_stays_at_the_site(tmp_path: Path) -> None:
    run = run_in(tmp_path, experiment_of("topk"))
    train(run)

    kept = sorted(tmp_path.rglob("memory.safetensors"))
    assert kept
    assert b"left_over/" in kept[-1].read_bytes()


@pytest.mark.parametrize("codec", CODECS)
def test_sites_hold_the_very_model_of_the_coordinator(tmp_path: Path, codec: str) -> None:
    run = run_in(tmp_path, experiment_of(codec))
    trained = train(run)
    evaluating.test_chosen(run, trained.best_round, SITES)

    held = {path.stem for path in (tmp_path / "sites").rglob("models/*.safetensors")}
    chosen = load_checkpoint(run.store.checkpoints / f"round_{trained.best_round:04d}").state
    assert held == {global_sha256(chosen.weights)}
    assert not any(request.header.base is None for request in run.transport.sent if request.header.model)


def test_no_model_goes_down_whole_where_all_take_part(tmp_path: Path) -> None:
    runs = {
        codec: run_in(tmp_path / codec, experiment_of(codec, rounds=6)) for codec in ("fp32", "int8", "topk")
    }
    down = {}
    for codec, run in runs.items():
        evaluating.test_chosen(run, train(run).best_round, SITES)
        down[codec] = sum(len(r.payload) for r in run.transport.sent if r.header.kind != "describe")

    assert down["topk"] < down["int8"] < 0.3 * down["fp32"]


def test_a_site_that_missed_a_round_gets_the_model_whole(tmp_path: Path) -> None:
    run = disturbed(
        run_in(tmp_path, experiment_of("int8", rounds=4, quorum=2)), "north", 2, lambda request: True
    )
    train(run)

    bases = [request.header.base is None for request in train_requests(run, "north")]
    assert bases == [False, False, True, False]
    assert all("north" in e["contributed"] for e in run.store.events("round_finished") if e["round"] > 2)


def test_a_site_that_lost_its_models_is_asked_again_and_nobody_notices(tmp_path: Path) -> None:
    experiment = experiment_of("int8", rounds=4)
    whole = run_in(tmp_path / "whole", experiment)
    train(whole)

    def lose(request: Envelope) -> bool:
        if request.header.base is not None:
            shutil.rmtree(next((tmp_path / "lost" / "sites" / "north").rglob("models")))
        return False

    run = disturbed(run_in(tmp_path / "lost", experiment), "north", 3, lose)
    train(run)

    bases = [(r.header.round, r.header.base is None) for r in train_requests(run, "north")]
    assert bases == [(1, False), (2, False), (3, False), (3, True), (4, False)]
    assert newest_sha256(run.store) == newest_sha256(whole.store)
    (third,) = [e for e in run.store.events("round_finished") if e["round"] == 3]
    assert third["contributed"]["north"]["bytes_down"] > third["contributed"]["south"]["bytes_down"]


def test_a_site_that_is_asked_for_scores_alone_gets_steps_too(tmp_path: Path) -> None:
    run = run_in(tmp_path, experiment_of("int8", rounds=5, participants=1))
    train(run)

    assert not any(request.header.base is None for request in run.transport.sent if request.header.model)
