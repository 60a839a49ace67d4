"""Whoever follows a run sees what happens as it is written down, as sentences or as JSON, until the run ends."""

import json
import threading
from pathlib import Path

import pytest
from builders import make_experiment

from medseg_server import following
from medseg_server.following import follow
from medseg_server.run_store import RunStore
from medseg_server.runs import begin_run, want
from medseg_server.server_folder import ServerFolder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerFolder:
    monkeypatch.setattr(following, "LOOK_S", 0.02)
    return ServerFolder(tmp_path)


@pytest.fixture
def name(server: ServerFolder) -> str:
    name = begin_run(server, make_experiment())
    store = RunStore(server.run(name))
    store.event("round_started", round=1, attempt=1)
    store.event("round_finished", round=1, training_loss=0.5, absent={"north": "deadline"})
    store.event("evaluated", round=1, validation_dice=0.25)
    return name


def test_a_finished_run_is_told_in_sentences_and_ends_with_its_report(
    server: ServerFolder, name: str
) -> None:
    RunStore(server.run(name)).event("finished")
    assert list(follow(server, name)) == [
        "round 1: loss 0.500, without north (deadline)",
        "round 1: validation Dice 0.250",
        "finished",
        f"report: {server.run(name).absolute() / 'report.html'}",
    ]


def test_programs_get_every_event_and_then_the_status(server: ServerFolder, name: str) -> None:
    RunStore(server.run(name)).event("failed", detail="round 2: nobody came.")
    *events, last = map(json.loads, follow(server, name, as_json=True))
    assert [e["event"] for e in events] == ["round_started", "round_finished", "evaluated", "failed"]
    assert (last["name"], last["state"], last["detail"]) == (name, "failed", "round 2: nobody came.")


def test_what_was_told_before_is_not_told_again(server: ServerFolder, name: str) -> None:
    RunStore(server.run(name)).event("failed", detail="x")
    assert list(follow(server, name, told=3)) == ["failed: x"]


def test_what_happens_meanwhile_is_told(server: ServerFolder, name: str) -> None:
    want(server, name, "running")
    later = threading.Timer(0.2, lambda: RunStore(server.run(name)).event("finished"))
    later.start()
    assert list(follow(server, name))[2] == "finished"
    later.join()
