"""Simulations on Ray in processes of their own, and what they leave behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from waiting import wait_until


def hear_interrupts() -> None:
    """Undo what a shell does to the jobs it starts in the background; be a group, as at a terminal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setpgrp()


def start(folder: Path, out: str, *more: str, experiment: str = "tiny.toml") -> subprocess.Popen[str]:
    """`medseg-simulate run` in a folder with data, cache and experiment."""
    words = ["run", experiment, "--data", "data", "--out", out, "--cache", "cache", "--resume", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "medseg_simulation", *words],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_interrupts,
    )


def finish(run: subprocess.Popen[str]) -> None:
    """The run ends well."""
    _, err = run.communicate(timeout=300)
    assert run.returncode == 0, err


def family(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Every process that a run has started, and they in turn."""
    return psutil.Process(run.pid).children(recursive=True)


def actors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The actors among processes."""
    return [process for process in processes if _title(process).startswith("ray::SiteActor")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for_all_to_end(processes: list[psutil.Process]) -> None:
    """None of the processes is left."""
    wait_until(lambda: not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE])


def bytes_of(out: Path) -> dict[str, bytes]:
    """Last weights of every model, the scores and the model of a run."""
    kept = [*out.glob("**/checkpoints/round_*/weights.safetensors"), *out.glob("model/*.safetensors")]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*kept, out / "cases.json"]}
