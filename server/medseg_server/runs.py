"""The coordinator's runs: what is wanted of each, and how far it is. All of it lies in the run's folder.

`wanted/NAME` beside the folders of runs is a note for `up`: of this run there may be something to do. It looks at no
other, however many have ended.
"""

import datetime as dt
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg_core.config import Experiment, read_experiment
from medseg_core.errors import SimulatedFaultsError
from medseg_core.federation_errors import FinishedRunError, UnfinishedRunError, UnknownRunError
from medseg_core.files import is_in_use, write_atomic
from medseg_server.own_data import open_own_data
from medseg_server.run import Run
from medseg_server.run_store import RunStore
from medseg_server.server_folder import ServerFolder
from medseg_server.transport import Transport

State = Literal["waiting", "running", "stopped", "failed", "finished"]
ENDED: tuple[State, ...] = ("stopped", "failed", "finished")  # until somebody wants the run to go on


@dataclass(frozen=True)
class RunStatus:
    """How far a run is."""

    name: str
    state: State
    round: int
    rounds: int
    detail: str = ""


def begin_run(folder: ServerFolder, experiment: Experiment) -> str:
    """Make a run's folder and want it to run; returns its name. Raises SimulatedFaultsError."""
    if experiment.simulation.faults is not None:
        raise SimulatedFaultsError
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    name = f"{experiment.task.name[:30]}-{now}-{secrets.token_hex(4)}"
    RunStore(folder.run(name)).open(experiment, run=name, resume=False)
    want(folder, name, "running")
    return name


def want(folder: ServerFolder, name: str, wanted: Literal["running", "stopped"]) -> None:
    """Say what shall become of a run; `up` sees to it. Raises UnknownRunError."""
    _require_known(folder, name)
    write_atomic(folder.run(name) / "wanted.json", json.dumps({"wanted": wanted}).encode())
    write_atomic(folder.wanted / name, b"")  # last: whoever finds it finds all else


def is_stopped(folder: ServerFolder, name: str) -> bool:
    """Whether a run shall not go on for now; so is one of which nobody has said yet that it shall."""
    try:
        wanted = json.loads((folder.run(name) / "wanted.json").read_bytes())["wanted"]
    except FileNotFoundError:
        return True
    return bool(wanted == "stopped")


def resume(folder: ServerFolder, name: str) -> None:
    """Let a run go on that was stopped or has failed. Raises UnknownRunError, FinishedRunError."""
    found = status(folder, name)
    if found.state == "finished":
        raise FinishedRunError(name)
    if found.state == "failed":
        RunStore(folder.run(name)).event("resumed_by_hand")
    want(folder, name, "running")


def names(folder: ServerFolder) -> tuple[str, ...]:
    """Every run, oldest first."""
    found = (folder.root / "runs").glob("*/experiment.toml")
    return tuple(p.parent.name for p in sorted(found, key=lambda p: p.stat().st_mtime))


def note_all(folder: ServerFolder) -> None:
    """Note every run for `up` to look at: once, for what an earlier release or a copy of the folder left un-noted."""
    for name in names(folder):
        write_atomic(folder.wanted / name, b"")


def waiting(folder: ServerFolder) -> tuple[str, ...]:
    """Runs that nobody conducts and that shall go on, oldest first. Notes of runs that came to an end are dropped."""
    found = []
    for note in sorted(folder.wanted.glob("[!.]*"), key=lambda path: path.stat().st_mtime):
        state = _state_of_noted(folder, note.name)
        if state in ENDED:
            note.unlink(missing_ok=True)
            if (state := _state_of_noted(folder, note.name)) not in ENDED:  # somebody resumed it meanwhile
                write_atomic(note, b"")
        if state == "waiting":
            found.append(note.name)
    return tuple(found)


def _state_of_noted(folder: ServerFolder, name: str) -> State:
    """The state of a run; one whose folder was removed has ended."""
    try:
        return status(folder, name).state
    except UnknownRunError:
        return "finished"


def status(folder: ServerFolder, name: str) -> RunStatus:
    """How far a run is. Raises UnknownRunError."""
    _require_known(folder, name)
    store = RunStore(folder.run(name))
    events = store.all_events()
    done = max((e["round"] for e in events if e["event"] == "round_finished"), default=0)
    rounds = read_experiment(store.folder / "experiment.toml").federation.rounds
    last = [e for e in events if e["event"] in ("failed", "resumed_by_hand", "finished")]
    if last and last[-1]["event"] == "finished":
        return RunStatus(name, "finished", done, rounds)
    if last and last[-1]["event"] == "failed":
        return RunStatus(name, "failed", done, rounds, last[-1]["detail"])
    if is_in_use(store.folder):
        return RunStatus(name, "running", done, rounds)
    return RunStatus(name, "stopped" if is_stopped(folder, name) else "waiting", done, rounds)


def _require_known(folder: ServerFolder, name: str) -> None:
    """A run of this name is there. Raises UnknownRunError."""
    if Path(name).name != name or not (folder.run(name) / "experiment.toml").is_file():
        raise UnknownRunError(name, names(folder))


def finished(folder: ServerFolder, name: str) -> Path:
    """The folder of a run that left its outcome. Raises UnknownRunError, UnfinishedRunError."""
    found = status(folder, name)
    if not (folder.run(name) / "summary.json").is_file():
        raise UnfinishedRunError(name, found.state)
    return folder.run(name)


def open_run(folder: ServerFolder, name: str, transport: Transport) -> Run:
    """A run to go on with. Raises ManifestError, FaultyCasesError for the coordinator's own cases."""
    store = RunStore(folder.run(name))
    experiment = read_experiment(store.folder / "experiment.toml")
    own_data = open_own_data(
        experiment,
        base=folder.root,
        cache=folder.root / "cache",
        on_warning=lambda text: store.event("warning", detail=text),
    )
    return Run(name, experiment, folder.coordinator(), transport, store, own_data=own_data)
