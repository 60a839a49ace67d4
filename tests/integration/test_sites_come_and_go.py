"""A hospital is enrolled while the coordinator runs, renewed, shut out, and comes back with new keys: real Flower."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from loopback import call, fingerprint_in
from waiting import wait_until

from medseg_core.supervision import free_ports, program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="coordinators and hospitals run on Linux"),
]


@contextmanager
def up(folder: Path, command: str, name: str) -> Iterator[None]:
    with (folder / f"{name}.log").open("a") as log:
        process = subprocess.Popen([program(command), "up", name], cwd=folder, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def sites(folder: Path) -> dict[str, Any]:
    listed = json.loads(call(folder, "medseg-server", "sites", "coordinator", "--json"))
    return {standing["site"]: standing for standing in listed}


def enrol(folder: Path, site: str, root: str, federation: str) -> None:
    made = call(folder, "medseg-site", "init", root, "--name", site, "--data", ".")
    request = f"{root}/{site}.request.json"
    call(folder, "medseg-server", "approve", "coordinator", request, "--fingerprint", fingerprint_in(made))
    kit = f"coordinator/kits/{site}.kit.json"
    call(folder, "medseg-site", "join", root, kit, "--fingerprint", fingerprint_in(federation))


def test_a_hospital_is_renewed_shut_out_and_comes_back_and_the_other_stays(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    made = call(tmp_path, "medseg-server", "init", "coordinator", "--name", "trial", "--address", address)
    log = tmp_path / "coordinator/logs/gateway.access.log"
    with up(tmp_path, "medseg-server", "coordinator"):
        for site in ("north", "south"):
            enrol(tmp_path, site, site, made)
        with up(tmp_path, "medseg-site", "south"):
            with up(tmp_path, "medseg-site", "north"):
                wait_until(lambda: {s["connection"] for s in sites(tmp_path).values()} == {"online"})
                south = sites(tmp_path)["south"]

                renewed = call(tmp_path, "medseg-server", "renew", "coordinator", "north", "--json")
                call(tmp_path, "medseg-site", "join", "north", json.loads(renewed)["kit"])
                roster = json.loads((tmp_path / "coordinator/roster.json").read_text())
                newest = f"{int(roster[0]['certificates'][-1]['serial']):X} verified=SUCCESS"
                wait_until(lambda: newest in log.read_text())  # without a restart

                call(tmp_path, "medseg-server", "revoke", "coordinator", "north")
                wait_until(lambda: "certificate revoked" in log.read_text())
                wait_until(lambda: sites(tmp_path)["north"]["connection"] == "offline")
            assert sites(tmp_path)["south"] == south

            call(tmp_path, "medseg-server", "renew", "coordinator")  # the servers' own, while all runs
            enrol(tmp_path, "north", "north-again", made)
            with up(tmp_path, "medseg-site", "north-again"):
                wait_until(lambda: {s["connection"] for s in sites(tmp_path).values()} == {"online"})
            assert sites(tmp_path)["north"]["status"] == "enrolled"
    assert "has new certificates" in (tmp_path / "coordinator.log").read_text()
    with up(tmp_path, "medseg-server", "coordinator"), up(tmp_path, "medseg-site", "south"):  # all over again
        wait_until(lambda: (sites(tmp_path)["south"]["connection"]) == "online")
