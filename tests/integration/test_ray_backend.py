"""`--backend ray`: the bytes of a simulation in one process, whatever happens to actors, driver and nodes."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from experiments import TINY
from ray_runs import actors, bytes_of, family, finish, start, wait_for_all_to_end
from waiting import wait_until

from medseg_simulation.phantoms import PhantomSettings, write_phantoms

pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="processes are told apart and killed the POSIX way"),
]

EXPERIMENT = f"""{TINY}[federation]
rounds = 12
optimiser_memory = true
server_momentum = 0.5
[simulation]
baselines = ["local", "pooled"]
"""
AWAY = """[simulation.faults]
kind = "drop_out"
sites = ["hospital-2"]
"""
DIVERGING = "learning_rate = 1e39\ngradient_clip_norm = 0.0\n[federation]"
RAY = ("--backend", "ray")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an experiment, and `in-process`, the run of one process."""
    folder = tmp_path_factory.mktemp("ray")
    write_phantoms(folder / "data", PhantomSettings(sites=3, cases=4, spatial_dims=2, voxel_mm=4.0))
    (folder / "tiny.toml").write_text(EXPERIMENT)
    (folder / "diverging.toml").write_text(EXPERIMENT.replace("[federation]", DIVERGING))
    away = EXPERIMENT.replace("rounds = 12", "rounds = 4\nquorum = 2") + AWAY
    (folder / "away.toml").write_text(away.replace('"local", "pooled"', ""))
    finish(start(folder, "in-process"))
    return folder


def wait_for_round(run: subprocess.Popen[str], out: Path, number: int) -> None:
    """The round's checkpoint is there."""
    wait_until(lambda: (out / f"checkpoints/round_{number:04d}").exists() or run.poll() is not None)
    assert run.poll() is None, run.communicate()[1]


@pytest.mark.long
def test_ctrl_c_a_killed_driver_and_a_killed_actor_change_no_byte(folder):
    out = folder / "disturbed"

    run = start(folder, "disturbed", *RAY)
    wait_for_round(run, out, 2)
    everybody = family(run)
    assert actors(everybody)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "Go on with --resume" in err
    assert "Traceback" not in err
    wait_for_all_to_end(everybody)

    run = start(folder, "disturbed", *RAY)
    wait_for_round(run, out, 5)
    everybody = family(run)
    run.kill()
    run.communicate()
    wait_for_all_to_end(actors(everybody))

    again = start(folder, "disturbed", *RAY)
    wait_for_round(again, out, 8)
    killed = actors(family(again))
    assert killed
    for actor in killed:
        actor.kill()
    finish(again)
    assert bytes_of(out) == bytes_of(folder / "in-process")


def test_what_goes_wrong_at_a_virtual_site_is_told_in_its_sentence(folder):
    run = start(folder, "diverging", *RAY, experiment="diverging.toml")

    _, err = run.communicate(timeout=300)

    assert run.returncode == 1
    assert "training diverged" in err
    assert "Lower [training] learning_rate" in " ".join(err.split())
    assert "Traceback" not in err


def absences(out: Path) -> list[dict[str, str]]:
    """Who was absent in each round, and why."""
    events = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    return [event["absent"] for event in events if event["event"] == "round_finished"]


def test_a_site_that_misses_rounds_is_absent_and_the_bytes_are_those_of_one_process(folder):
    finish(start(folder, "away", experiment="away.toml"))

    finish(start(folder, "away-ray", *RAY, experiment="away.toml"))

    assert {"hospital-2": "not_connected"} in absences(folder / "away-ray")
    assert absences(folder / "away-ray") == absences(folder / "away")
    assert bytes_of(folder / "away-ray") == bytes_of(folder / "away")


@contextmanager
def node(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node with one CPU, ended with all that it started."""
    program = str(Path(sys.executable).with_name("ray"))
    running = subprocess.Popen(
        [program, "start", "--block", "--num-cpus=1", "--disable-usage-stats", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RAY_worker_niceness": "0"},
    )
    try:
        yield running
    finally:
        everybody = psutil.Process(running.pid).children(recursive=True) if running.poll() is None else []
        for process in everybody:
            process.kill()
        running.kill()
        running.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_nodes_of_a_cluster_give_the_same_bytes(folder):
    port, out = free_port(), folder / "cluster"
    address = f"127.0.0.1:{port}"
    place = tempfile.TemporaryDirectory(prefix="medseg-ray-", dir="/tmp", ignore_cleanup_errors=True)
    with place as temp, node("--head", f"--port={port}", f"--temp-dir={temp}") as head:
        wait_until(lambda: is_open(port))
        with node(f"--address={address}") as second:
            wait_until(lambda: has_raylet(second))
            run = start(folder, "cluster", *RAY, "--ray-address", address)
            wait_for_round(run, out, 2)
            assert actors(psutil.Process(head.pid).children(recursive=True))
            assert actors(psutil.Process(second.pid).children(recursive=True))
            finish(run)
    assert bytes_of(out) == bytes_of(folder / "in-process")


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def has_raylet(node: subprocess.Popen[bytes]) -> bool:
    return "raylet" in {process.name() for process in psutil.Process(node.pid).children(recursive=True)}
