"""What is wanted of a run and how far it is, from its folder alone."""

import os
import shutil
from pathlib import Path

import pytest
from builders import make_experiment

from medseg_core.errors import SimulatedFaultsError
from medseg_core.federation_errors import FinishedRunError, UnknownRunError
from medseg_core.files import sole_use
from medseg_server.run_store import RunStore
from medseg_server.runs import begin_run, is_stopped, note_all, resume, status, waiting, want
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


def end(folder: ServerFolder, name: str, event: str) -> None:
    RunStore(folder.run(name)).event(event, detail="a sentence")


def test_a_look_reads_nothing_of_runs_that_have_ended_however_many(
    folder: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        end(folder, begin_run(folder, make_experiment()), ("finished", "failed")[number % 2])
    wanted = begin_run(folder, make_experiment())
    waiting(folder)  # drops the notes of those that ended
    touched: list[str] = []
    for function in ("stat", "open", "iterdir", "glob", "read_text", "read_bytes"):
        call = getattr(Path, function)
        monkeypatch.setattr(
            Path, function, lambda path, *a, call=call, **k: touched.append(str(path)) or call(path, *a, **k)
        )
    assert waiting(folder) == (wanted,)
    ours = {str(folder.root / "wanted"), str(folder.wanted / wanted)}
    others = [path for path in touched if wanted not in path and path not in ours]
    assert touched
    assert others == []


def test_runs_are_found_in_the_order_in_which_they_were_wanted(folder: ServerFolder) -> None:
    first, second = (begin_run(folder, make_experiment()) for _ in range(2))
    os.utime(folder.wanted / first, (1, 1))
    assert waiting(folder) == (first, second)


@pytest.mark.parametrize("ending", ["failed", "stopped"])
def test_a_run_that_ended_is_found_again_when_it_is_wanted_again(
    folder: ServerFolder, name: str, ending: str
) -> None:
    if ending == "stopped":
        want(folder, name, "stopped")
    else:
        end(folder, name, ending)
    assert waiting(folder) == ()
    assert not list(folder.wanted.iterdir())
    resume(folder, name)
    assert waiting(folder) == (name,)


def test_a_run_that_is_resumed_while_its_note_is_dropped_is_not_lost(
    folder: ServerFolder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(folder, name, "failed")
    unlink = Path.unlink

    def resumed_just_before(path: Path, missing_ok: bool = False) -> None:
        monkeypatch.undo()
        resume(folder, name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", resumed_just_before)
    waiting(folder)
    assert waiting(folder) == (name,)


def test_runs_without_a_note_are_found_after_a_start(folder: ServerFolder, name: str) -> None:
    """An earlier release wrote none."""
    (folder.wanted / name).unlink()
    end(folder, done := begin_run(folder, make_experiment()), "finished")
    note_all(folder)
    assert waiting(folder) == (name,)
    assert not (folder.wanted / done).exists()


def test_a_note_of_a_run_whose_folder_was_removed_is_dropped(folder: ServerFolder, name: str) -> None:
    shutil.rmtree(folder.run(name))
    assert waiting(folder) == ()
    assert not list(folder.wanted.iterdir())


@pytest.mark.parametrize("other", ["", "..", "../runs/x", "/etc"])
def test_what_is_no_name_of_a_run_is_unknown(folder: ServerFolder, name: str, other: str) -> None:
    with pytest.raises(UnknownRunError):
        status(folder, other)


def test_an_experiment_with_misbehaviour_is_refused_and_leaves_nothing(folder: ServerFolder) -> None:
    experiment = make_experiment(simulation={"faults": {"kind": "scale"}})
    with pytest.raises(SimulatedFaultsError, match="for medseg-simulate alone"):
        begin_run(folder, experiment)
    assert not (folder.root / "runs").exists()
