"""What is wanted of a run and how far it is, from its folder alone."""

from pathlib import Path

import pytest
from builders import make_experiment

from medseg_core.federation_errors import FinishedRunError, UnknownRunError
from medseg_core.files import sole_use
from medseg_server.run_store import RunStore
from medseg_server.runs import begin_run, is_stopped, resume, status, want
from medseg_server.server_folder import ServerFolder


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    return ServerFolder(tmp_path)


@pytest.fixture
def name(folder: ServerFolder) -> str:
    return begin_run(folder, make_experiment(federation={"rounds": 5}))


def state(folder: ServerFolder, name: str) -> str:
    return status(folder, name).state


def test_a_run_waits_runs_stops_and_goes_on(folder: ServerFolder, name: str) -> None:
    assert state(folder, name) == "waiting"
    with sole_use(folder.run(name)):
        assert state(folder, name) == "running"
        want(folder, name, "stopped")
        assert is_stopped(folder, name)
        assert state(folder, name) == "running"  # until its process has heard of it
    assert state(folder, name) == "stopped"
    resume(folder, name)
    assert not is_stopped(folder, name)
    assert state(folder, name) == "waiting"


def test_a_run_whose_folder_is_being_made_is_not_started_yet(folder: ServerFolder, name: str) -> None:
    (folder.run(name) / "wanted.json").unlink()
    assert state(folder, name) == "stopped"


def test_a_failed_run_goes_on_only_by_hand(folder: ServerFolder, name: str) -> None:
    store = RunStore(folder.run(name))
    store.event("round_finished", round=2)
    store.event("failed", detail="a sentence")
    assert (status(folder, name).round, status(folder, name).rounds) == (2, 5)
    assert (state(folder, name), status(folder, name).detail) == ("failed", "a sentence")
    resume(folder, name)
    assert state(folder, name) == "waiting"


def test_a_finished_run_does_not_go_on(folder: ServerFolder, name: str) -> None:
    RunStore(folder.run(name)).event("finished")
    assert state(folder, name) == "finished"
    with pytest.raises(FinishedRunError, match=name):
        resume(folder, name)


def test_a_run_that_is_not_there_is_named_with_those_that_are(folder: ServerFolder, name: str) -> None:
    with pytest.raises(UnknownRunError, match=name):
        want(folder, "other", "stopped")
    with pytest.raises(UnknownRunError, match="other"):
        status(folder, "other")
