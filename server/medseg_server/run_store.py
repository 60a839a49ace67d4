"""The folder of a run: what it was asked, what happened, and the checkpoints to go on from."""

import json
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

from medseg_core.config import Experiment, experiment_toml, read_experiment
from medseg_core.errors import OccupiedFolderError, UnusableFolderError
from medseg_core.files import write_atomic
from medseg_server.errors import DifferentDataError, DifferentExperimentError


class RunStore:
    """`experiment.toml`, `run.json`, `events.jsonl`, `checkpoints/` of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"

    def open(self, experiment: Experiment, *, run: str, resume: bool, data_sha256: str | None = None) -> str:
        """Start the run, or go on with it; returns its identifier (`run` for a new one, else the stored one).

        `data_sha256` names the cases where they are one data set; a run goes on with those alone.
        Raises OccupiedFolderError, DifferentExperimentError, DifferentDataError or UnusableFolderError.
        """
        if self.is_begun(experiment, resume=resume):
            self.require_data(data_sha256)
            return self._identifier()
        named = {"run": run} | ({"data_sha256": data_sha256} if data_sha256 else {})
        write_atomic(self.folder / "run.json", json.dumps(named).encode())
        write_atomic(self.folder / "experiment.toml", experiment_toml(experiment).encode())
        return run

    def is_begun(self, experiment: Experiment, *, resume: bool) -> bool:
        """Whether a run that may be resumed is here; writes nothing.

        Raises OccupiedFolderError, DifferentExperimentError or UnusableFolderError.
        """
        stored = self.folder / "experiment.toml"
        try:
            is_there = stored.exists()
        except OSError as error:
            raise UnusableFolderError(self.folder, error.strerror or type(error).__name__) from error
        if is_there and not resume:
            raise OccupiedFolderError(self.folder)
        if is_there and read_experiment(stored) != experiment:
            raise DifferentExperimentError(self.folder)
        return is_there

    def require_data(self, data_sha256: str | None) -> None:
        """The run that is begun here is on these cases, as far as it says. Raises DifferentDataError."""
        begun_with = self._named().get("data_sha256")
        if data_sha256 is not None and begun_with not in (None, data_sha256):
            raise DifferentDataError(self.folder)

    def _identifier(self) -> str:
        """The stored identifier of the run."""
        return str(self._named()["run"])

    def _named(self) -> dict[str, Any]:
        """What run.json says. Raises UnusableFolderError."""
        try:
            named: dict[str, Any] = json.loads((self.folder / "run.json").read_bytes())
            return {**named, "run": named["run"]}
        except (OSError, ValueError, KeyError, TypeError):
            raise UnusableFolderError(self.folder, "its run.json is missing or damaged") from None

    def event(self, name: str, **facts: Any) -> None:
        """Append one line to `events.jsonl`; on disk when this returns."""
        line = json.dumps({"time": round(time.time(), 3), "event": name, **facts}) + "\n"
        try:
            with (self.folder / "events.jsonl").open("a+b") as file:
                file.write(_line_end(file) + line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UnusableFolderError(self.folder, error.strerror or type(error).__name__) from error

    def events(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of one kind."""
        return [record for record in self.all_events() if record["event"] == name]

    def all_events(self) -> list[dict[str, Any]]:
        """The whole lines; a torn last line (a crash while writing) is passed over."""
        try:
            text = (self.folder / "events.jsonl").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UnusableFolderError(self.folder, error.strerror or type(error).__name__) from error
        found = []
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict) and "event" in record:
                found.append(record)
        return found

    def write_json(self, name: str, record: Any) -> None:
        """Write `record` as an indented JSON file of the run."""
        write_atomic(self.folder / name, (json.dumps(record, indent=2) + "\n").encode())


def _line_end(file: BinaryIO) -> bytes:
    """What ends a last line that a crash tore, so that the next one stands alone."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"
