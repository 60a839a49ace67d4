"""Simulations of benchmarks: each a process, as a researcher starts it, kept from one call to the next."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg_core.config import Experiment, experiment_sha256, experiment_toml
from medseg_core.version import commit
from medseg_simulation.preset_files import read_preset


def preset_with(preset: str, changes: Mapping[str, Mapping[str, Any]]) -> Experiment:
    """A preset with changes by section."""
    document = read_preset(preset).model_dump(mode="json", exclude_none=True)
    for section, values in changes.items():
        document[section] |= values
    return Experiment.model_validate(document)


def ensure_run(folder: Path, experiment: Experiment, data: Path, cache: Path) -> dict[str, Any]:
    """Its summary. A run of the same experiment, data and commit that is there is not repeated, or goes on.

    Any other is made anew, as where files differ from the commit.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_unless_made_by(folder, experiment, data)
    if not (folder / "summary.json").exists():
        file = folder.with_name(f"{folder.name}.toml")
        file.write_text(experiment_toml(experiment))
        command = [sys.executable, "-m", "medseg_simulation", "run", str(file), "--data", str(data)]
        command += ["--out", str(folder), "--cache", str(cache)]
        subprocess.run([*command, *(["--resume"] if folder.exists() else [])], check=True, stdout=sys.stderr)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def _remove_unless_made_by(folder: Path, experiment: Experiment, data: Path) -> None:
    """And note beside it what makes it now."""
    note, now = folder.with_name(f"{folder.name}.made_by.json"), commit()
    made_by = {"experiment": experiment_sha256(experiment), "data": str(data.resolve()), "commit": now}
    is_told = now != "unknown" and not now.endswith("-dirty")
    if not (is_told and note.exists() and json.loads(note.read_text()) == made_by) and folder.exists():
        shutil.rmtree(folder)
    note.write_text(json.dumps(made_by))
