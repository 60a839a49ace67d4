"""Processes killed and a run stopped by hand: the run ends with the weights that it would have had."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import TINY
from loopback import COORDINATOR, RUN_S, SITES, Loopback, call, make_loopback
from waiting import wait_until

from medseg_core.supervision import program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="coordinators and hospitals run on Linux"),
]
EXPERIMENT = f"""{TINY}[federation]
rounds = 4
optimiser_memory = true
server_momentum = 0.5
[codec]
name = "int8"
"""
WEIGHTS = "checkpoints/round_0004/weights.safetensors"


def rounds_of(federation: Loopback) -> int:
    return sum(e["event"] == "round_finished" for e in federation.events)


def kill(federation: Loopback, role: str, owner: str) -> None:
    wait_until(lambda: bool(federation.find(role, owner)))
    for process in federation.find(role, owner):
        process.kill()


def test_a_run_survives_kills_and_a_stop_with_the_weights_of_the_simulation(tmp_path: Path) -> None:
    federation = make_loopback(tmp_path, EXPERIMENT, cases=4)
    with federation.kept_up():
        first = subprocess.Popen(
            [program("medseg-server"), "run", COORDINATOR, "experiment.toml"], cwd=tmp_path
        )
        wait_until(lambda: bool(federation.runs) and rounds_of(federation) >= 1)
        kill(federation, "trainer", "hospital-1")
        kill(federation, "serverapp", COORDINATOR)
        wait_until(lambda: rounds_of(federation) >= 2)
        kill(federation, "gateway", COORDINATOR)
        told = call(tmp_path, "medseg-server", "stop", COORDINATOR, federation.run.name)
        assert "stopped" in told
        assert first.wait(RUN_S) == 1
        at_stop = rounds_of(federation)
        assert at_stop < 4
        (line,) = call(tmp_path, "medseg-server", "status", COORDINATOR, "--json").splitlines()
        assert json.loads(line)["state"] == "stopped"
        told = call(tmp_path, "medseg-server", "resume", COORDINATOR, federation.run.name)
        assert "finished" in told
    assert all(len(list(tmp_path.glob(f"{site}/**/models/*.safetensors"))) == 1 for site in SITES)
    assert (federation.run / WEIGHTS).read_bytes() == (federation.simulated() / WEIGHTS).read_bytes()
