"""The folder of a run: what it was asked, what happened, and the checkpoints to go on from."""

import json
import os
import time
from pathlib import Path
from typing import Any

from medseg_core.config import Experiment, experiment_toml, read_experiment
from medseg_core.errors import DifferentExperimentError, OccupiedFolderError, UnusableFolderError
from medseg_core.files import write_atomic


class RunStore:
    """`experiment.toml`, `run.json`, `events.jsonl`, `checkpoints/` of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"

    def open(self, experiment: Experiment, *, run: str, resume: bool) -> str:
        """Start the run, or go on with it; returns its identifier (`run` for a new one, else the stored one).

        Raises OccupiedFolderError, DifferentExperimentError or UnusableFolderError.
        """
        stored = self.folder / "experiment.toml"
        if not stored.exists():
            write_atomic(self.folder / "run.json", json.dumps({"run": run}).encode())
            write_atomic(stored, experiment_toml(experiment).encode())
            return run
        if not resume:
            raise OccupiedFolderError(self.folder)
        if read_experiment(stored) != experiment:
            raise DifferentExperimentError(self.folder)
        return str(json.loads((self.folder / "run.json").read_text())["run"])

    def event(self, name: str, **facts: Any) -> None:
        """Append one line to `events.jsonl`; on disk when this returns."""
        line = json.dumps({"time": round(time.time(), 3), "event": name, **facts}) + "\n"
        try:
            with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UnusableFolderError(self.folder, error.strerror or type(error).__name__) from error

    def events(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of one kind; a torn last line (a crash while writing) is passed over."""
        try:
            text = (self.folder / "events.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record.get("event") == name:
                found.append(record)
        return found

    def write_json(self, name: str, record: Any) -> None:
        """Write `record` as an indented JSON file of the run."""
        write_atomic(self.folder / name, (json.dumps(record, indent=2) + "\n").encode())
