"""The model that a run ends with: a folder that `predict` needs and nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from medseg_core.config import Experiment, experiment_toml
from medseg_core.files import write_atomic


def write_model(
    folder: Path,
    experiment: Experiment,
    weights: Mapping[str, npt.NDArray[np.float32]],
    summary: Mapping[str, Any],
) -> None:
    """Write weights, task and provenance. Raises UnusableFolderError."""
    write_atomic(folder / "model.safetensors", save(dict(weights)))
    write_atomic(folder / "experiment.toml", experiment_toml(experiment).encode())
    provenance = {k: summary[k] for k in ("run", "version", "experiment_sha256", "best", "sites")}
    write_atomic(folder / "provenance.json", json.dumps(provenance, indent=2).encode())
