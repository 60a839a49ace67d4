"""Ctrl-C stops a run cleanly, says how to go on, and the resumed run ends with the weights of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from experiments import TINY

from medseg_simulation.phantoms import PhantomSettings, write_phantoms

EXPERIMENT = f"""{TINY}[federation]
rounds = 40
optimiser_memory = true
server_momentum = 0.5
[simulation]
baselines = ["local"]
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


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def weights(out: Path) -> dict[str, bytes]:
    """Last weights of every model."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("round_0040/weights.safetensors")}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one child alone")
def test_ctrl_c_stops_cleanly_and_resume_ends_with_the_same_weights(tmp_path):
    write_phantoms(tmp_path / "data", PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0))
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    out, undisturbed = tmp_path / "interrupted", tmp_path / "undisturbed"
    for moment in ("checkpoints/round_0003", "baselines/local/hospital-2/checkpoints/round_0003"):
        run = start(tmp_path, out, "--resume")
        wait_for(out / moment)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
        assert run.returncode == 130, err
        assert "Go on with --resume" in err
        assert "Traceback" not in err
        assert not (out / "summary.json").exists()

    for process in (start(tmp_path, out, "--resume"), start(tmp_path, undisturbed)):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert len(weights(out)) == 3
    assert weights(out) == weights(undisturbed)
