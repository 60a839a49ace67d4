"""A sweep that is stopped, or killed, goes on inside the cell, repeats none and ends with the same figures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from experiments import TINY

from medseg_simulation.phantoms import PhantomSettings, write_phantoms

SWEEP = """
experiment = "tiny.toml"
rounds = 30
baselines = ["local"]
[tuning]
local = [{ learning_rate = 1e-2 }, { learning_rate = 1e-3 }]
[[setting]]
name = "hospitals"
[[algorithm]]
name = "fedavg"
candidates = [{ training.learning_rate = 1e-3 }, { training.learning_rate = 1e-2 }]
[[algorithm]]
name = "krum"
candidates = [{}, { training.learning_rate = 1e-2 }]
[[algorithm]]
name = "scaffold"
changes.training.optimiser = "sgd"
candidates = [{ training.learning_rate = 1e-2 }, { training.learning_rate = 1e-1 }]
"""
MOMENTS = {  # in hospitals/seed-0
    "baselines/candidate-1/baselines/local/hospital-1/checkpoints": signal.SIGINT,
    "fedavg/candidate-2/checkpoints": signal.SIGKILL,
    "scaffold/candidate-1/checkpoints": signal.SIGKILL,
}


def hear_interrupts() -> None:
    """Undo what a shell does to the jobs it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder: Path, out: str, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "medseg_simulation", "sweep", "sweep.toml", "--data", "data", "--out", out]
    return subprocess.Popen(
        [*words, "--cache", "cache", *more],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_interrupts,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} did not appear")


def figures(out: Path) -> dict[str, Any]:
    """All that two equal sweeps have in common: not the clock."""
    found = json.loads((out / "sweep.json").read_text())
    for row in found["settings"]["hospitals"]["algorithms"].values():
        del row["training_s"]
        for size in ("bytes_up", "bytes_down"):  # seconds have more digits or fewer
            row[size] = round(row[size], -3)
    told = found["recommendation"]
    told["grounds"] = told["grounds"].split("; it takes")[0]
    return dict(found)


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one child alone")
def test_an_interrupted_sweep_ends_with_the_figures_of_an_undisturbed_one(tmp_path):
    write_phantoms(tmp_path / "data", PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0))
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    cells = tmp_path / "interrupted/hospitals/seed-0"
    for moment, how in MOMENTS.items():
        sweep = start(tmp_path, "interrupted", "--resume")
        wait_for(cells / moment)
        sweep.send_signal(how)
        _, err = sweep.communicate(timeout=60)
        assert sweep.returncode in (130, -signal.SIGKILL), err
        assert "Traceback" not in err
        if how == signal.SIGINT:
            assert "Go on with --resume" in err
    finished = (cells / "fedavg/candidate-2/summary.json").stat().st_mtime_ns

    for process in (start(tmp_path, "interrupted", "--resume"), start(tmp_path, "undisturbed", "--json")):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err

    assert json.loads(out) == json.loads((tmp_path / "undisturbed/sweep.json").read_text())
    assert figures(tmp_path / "interrupted") == figures(tmp_path / "undisturbed")
    assert (cells / "fedavg/candidate-2/summary.json").stat().st_mtime_ns == finished  # not repeated
    assert "5 sites" in figures(tmp_path / "undisturbed")["settings"]["hospitals"]["failures"]["krum"]["0"]
    refused = start(tmp_path, "undisturbed")
    assert refused.wait(60) == 1
    assert "Add --resume" in refused.communicate()[1]
