"""What sites tell of themselves is kept and shown; nothing of a run depends on it, and who tells nothing takes part."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import (
    COORDINATOR_KEY,
    Answering,
    ScriptedTransport,
    make_experiment,
    make_facts,
    make_guard,
    make_run,
    make_site_data,
    make_trainer,
    newest_sha256,
    opened,
    scripted_site,
    site_key,
)

from medseg_client.models import Models
from medseg_core.assessment.summary import read_summary
from medseg_core.wire.envelope import Envelope, seal
from medseg_server.cli import main
from medseg_server.conduct import conduct
from medseg_server.describing import describe
from medseg_server.ledgers import Head
from medseg_server.rounds import Run
from medseg_server.run_sites import sites_of

EXPERIMENT = make_experiment()


def site(folder: Path, name: str, **rules: Any) -> Answering:
    """A site with a policy and a ledger."""
    trainer = make_trainer(
        folder / name / "state",
        EXPERIMENT,
        make_site_data(name, test=3),
        site=name,
        faults=[],
        guard=make_guard(folder / name / "ledger", site=name, **rules),
        models=Models(folder / name / "models", COORDINATOR_KEY.public_key()),
    )
    return lambda request: trainer.handle(request.to_bytes())


def run_in(folder: Path, name: str = "server/runs/first", **rules: Any) -> Run:
    """North tells of itself; south is as an earlier release was."""
    kept = ("training", "validation", "test")
    answers = {"north": site(folder, "north", **rules), "south": site(folder, "south", statistics=kept)}
    return make_run(folder / name, EXPERIMENT, ScriptedTransport(answers))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = run_in(tmp_path_factory.mktemp("ended"), max_update_norm=30.0)
    conduct(run)
    return run


def test_facts_are_in_events_and_in_the_summary(ended: Run) -> None:
    (event,) = ended.store.events("site_facts")
    assert list(event["sites"]) == ["north"]
    summary = read_summary(ended.store.folder / "summary.json")
    assert list(summary.facts) == ["north"]
    assert summary.facts["north"].max_update_norm == 30.0
    assert "tells nothing" in (ended.store.folder / "report.html").read_text()


def test_facts_of_a_site_do_not_travel_to_others_with_the_model(ended: Run) -> None:
    files = [path.read_bytes() for path in (ended.store.folder / "model").rglob("*") if path.is_file()]
    assert len(files) > 5
    for name in (b"memory_gib", b"evaluations_left", b"rounds_left"):
        assert not any(name in data for data in files)


def test_facts_change_nothing_of_the_model(tmp_path: Path) -> None:
    hashes = set()
    for number, statistics in enumerate((["validation", "test"], ["validation", "test", "site"])):
        run = run_in(tmp_path / str(number), statistics=statistics)
        conduct(run)
        assert bool(run.store.events("site_facts")) == (number == 1)
        hashes.add(newest_sha256(run.store))
    assert len(hashes) == 1


def test_facts_may_change_while_a_run_goes_on(tmp_path: Path) -> None:
    facts = make_facts()

    def answer(request: Envelope) -> bytes:
        reply = opened(scripted_site("north", lambda request: {})(request))
        header = reply.header.model_copy(update={"scalars": facts.to_scalars()})
        return seal(header, b"", site_key("north")).to_bytes()

    run = make_run(tmp_path, EXPERIMENT, ScriptedTransport({"north": answer}))
    first = describe(run)
    facts = make_facts(rounds_left=7, device="cpu")
    assert describe(run) == first
    (north,) = sites_of(run.store)
    assert north.facts == facts


def test_facts_that_cannot_be_do_not_keep_a_site_out(tmp_path: Path) -> None:
    def answer(request: Envelope) -> bytes:
        reply = opened(scripted_site("north", lambda request: {})(request))
        header = reply.header.model_copy(update={"scalars": {"memory_gib": -3.5}})
        return seal(header, b"", site_key("north")).to_bytes()

    run = make_run(tmp_path, EXPERIMENT, ScriptedTransport({"north": answer}))
    assert list(describe(run)) == ["north"]
    assert sites_of(run.store)[0].facts is None


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    monkeypatch.setattr(sys, "argv", ["medseg-server", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    return capsys.readouterr().out


def test_the_status_of_a_run_tells_of_its_sites(
    ended: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ended.store.folder.parent.parent
    shown = call(monkeypatch, capsys, "status", root, "first")
    assert "north: 2 rounds; cases: 3 to train (3 patients), 1 to validate (1 patients), 3 to test" in shown
    assert "updates scaled to norm 30" in shown
    assert "cpu with " in shown
    assert shown.count("tells nothing of its machine and its rules") == 1
    (line,) = call(monkeypatch, capsys, "status", root, "first", "--json").splitlines()
    north, south = json.loads(line)["sites"]
    assert (north["facts"]["device"], south["facts"]) == ("cpu", None)
    assert Head(**south["ledger"]) == sites_of(ended.store)[1].ledger
    assert "sites" not in json.loads(call(monkeypatch, capsys, "status", root, "--json"))
