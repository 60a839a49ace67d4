"""Runs one simulation undisturbed and once more in processes that are killed; prints what both came to as JSON.

    python simulation_in_children.py FOLDER KILLS SEED

Every process is a fork of this one, which has imported everything and computed nothing.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import monai.networks.nets  # noqa: F401  imported once, here
import torch

import medseg_core.assessment.report  # noqa: F401
from medseg_core.config import Experiment
from medseg_simulation.fold import Compute
from medseg_simulation.phantoms import PhantomSettings, write_phantoms
from medseg_simulation.simulate import Place, simulate

EXPERIMENT = Experiment.model_validate(
    {
        "task": {
            "name": "phantom",
            "spatial_dims": 2,
            "longest_side_px": 32,
            "channels": [{"name": "synthetic"}],
            "labels": {"organ": 1, "lesion": 2},
        },
        "model": {"channels": [4, 8], "residual_units": 1},
        "training": {"patch_size": [32, 32], "cpu_threads": 1, "learning_rate": 0.01},
        "federation": {"rounds": 3, "optimiser_memory": True, "server_momentum": 0.5, "participants": 2},
        "evaluation": {"bootstrap_samples": 10},
        "simulation": {"baselines": ["pooled"]},
    }
)


class Silent:
    """Watches a simulation and says nothing."""

    def on_case(self, total: int) -> None: ...
    def on_warning(self, text: str) -> None: ...
    def on_stage(self, text: str) -> None: ...
    def on_round(self, model: str, record: dict[str, Any]) -> None: ...


def start(folder: Path, out: str) -> int:
    """Process id of a child that runs, or goes on with, the simulation in `folder/out`."""
    child = os.fork()
    if child:
        return child
    try:
        place = Place(
            folder / "data",
            folder / out,
            folder / f"{out}-cache",
            Compute(torch.device("cpu"), sites_at_once=2),
            resume=True,
        )
        simulate(EXPERIMENT, place, Silent())
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        raise
    finally:
        sys.stderr.flush()
        os._exit(0 if sys.exception() is None else 1)


def outcome(out: Path) -> dict[str, Any]:
    """Everything that two equal runs have in common."""
    summary = json.loads((out / "summary.json").read_text())
    digests = {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in ("model/model.safetensors", "cases.json")
    }
    checkpoints = sorted((out / "checkpoints").iterdir())
    state = json.loads((checkpoints[-1] / "state.json").read_text())
    return {
        **digests,
        "global_sha256": state["global_sha256"],
        "best": summary["best"],
        "curves": summary["curves"],
    }


def main(folder: Path, kills: int, seed: int) -> None:
    """Print both outcomes and how often the second run was killed."""
    settings = PhantomSettings(sites=3, cases=4, spatial_dims=2, voxel_mm=4.0)
    write_phantoms(folder / "data", settings)
    began = time.monotonic()
    _, status = os.waitpid(start(folder, "undisturbed"), 0)
    assert status == 0, "the undisturbed run failed"
    whole_s, moments, killed = time.monotonic() - began, random.Random(seed), 0
    while True:
        child = start(folder, "killed")
        if killed < kills:
            time.sleep(moments.uniform(0, whole_s / 4))  # at least the first three kills come before its end
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert status == 0, "a resumed run failed"
            break
        killed += 1
    result = {name: outcome(folder / name) for name in ("undisturbed", "killed")}
    sys.stdout.write(json.dumps({**result, "kills": killed, "whole_s": whole_s}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
