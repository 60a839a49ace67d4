"""Ctrl-C stops a run cleanly, says how to go on, and the resumed run ends with the weights of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medseg_simulation.phantoms import PhantomSettings, write_phantoms

EXPERIMENT = """
[task]
name = "tiny"
spatial_dims = 2
channels = [{ name = "grey" }]
labels = { organ = 1, lesion = 2 }
[model]
channels = [4, 8]
residual_units = 1
[training]
patch_size = [16, 16]
cpu_threads = 1
[federation]
rounds = 40
optimiser_memory = true
server_momentum = 0.5
"""


def hear_interrupts() -> None:
    """Undo what a shell does to the jobs it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-m",
        "medseg_simulation",
        "run",
        "tiny.toml",
        "--data",
        "data",
        "--out",
        str(out),
    ]
    return subprocess.Popen(
        [*words, "--cache", "cache", *more],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_interrupts,
    )


def wait_for_round(out: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (out / "checkpoints" / f"round_{number:04d}").is_dir():
            return
        time.sleep(0.05)
    raise AssertionError(f"round {number} was not reached")


def weights_sha256(out: Path) -> str:
    return str(json.loads((out / "model" / "provenance.json").read_text())["weights_sha256"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one child alone")
def test_ctrl_c_stops_cleanly_and_resume_ends_with_the_same_weights(tmp_path):
    write_phantoms(tmp_path / "data", PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0))
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    run = start(tmp_path, tmp_path / "interrupted")
    wait_for_round(tmp_path / "interrupted", 3)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "Go on with --resume" in err
    assert "Traceback" not in err
    assert not (tmp_path / "interrupted" / "summary.json").exists()

    resumed, undisturbed = (
        start(tmp_path, tmp_path / "interrupted", "--resume"),
        start(tmp_path, tmp_path / "undisturbed"),
    )
    for process in (resumed, undisturbed):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert weights_sha256(tmp_path / "interrupted") == weights_sha256(tmp_path / "undisturbed")
