"""Trainer, egress and relay each kept up by a process of its own, as in containers or by units of a service manager."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import TINY
from loopback import COORDINATOR, Loopback, call, make_loopback
from waiting import wait_until

from medseg_client.site_folder import Role
from medseg_core.supervision import program

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="coordinators and hospitals run on Linux"),
]
EXPERIMENT = f"""{TINY}[federation]
rounds = 2
"""
APART = "hospital-2"


def start_apart(federation: Loopback) -> None:
    """`up --role` for each role of the second hospital, instead of its `up`."""
    for role in Role:
        with (federation.root / f"{APART}.{role}.log").open("a") as log:
            federation.up[f"{APART} {role}"] = subprocess.Popen(
                [program("medseg-site"), "up", APART, "--role", role],
                cwd=federation.root,
                stdout=log,
                stderr=log,
            )


def test_a_site_of_three_processes_takes_part_renews_its_certificate_and_survives_a_kill(
    tmp_path: Path,
) -> None:
    federation = make_loopback(tmp_path, EXPERIMENT, cases=4)
    settings = tmp_path / APART / "site.toml"
    text = settings.read_text().replace('egress_listen = "127.0.0.1"', 'egress_listen = "127.0.0.2"')
    settings.write_text(text.replace('egress_host = "127.0.0.1"', 'egress_host = "127.0.0.2"'))
    kit = f"{COORDINATOR}/kits/{APART}.kit.json"
    call(tmp_path, "medseg-site", "join", APART, kit)
    for name in (COORDINATOR, "hospital-1"):
        federation.start(name)
    start_apart(federation)
    try:
        told = call(tmp_path, "medseg-server", "run", COORDINATOR, "experiment.toml")
        assert "finished" in told, told
        assert '"up"' in call(tmp_path, "medseg-site", "status", APART, "--json")

        refused = subprocess.run(
            [program("medseg-site"), "up", APART, "--role", "trainer"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (refused.returncode, "is in use by another process" in refused.stderr) == (1, True)

        renewed_while_it_runs(tmp_path, kit)
        federation.up[f"{APART} relay"].kill()
        federation.up.pop(f"{APART} relay").wait()
        with (tmp_path / f"{APART}.relay.log").open("a") as log:
            federation.up[f"{APART} relay"] = subprocess.Popen(
                [program("medseg-site"), "up", APART, "--role", "relay"], cwd=tmp_path, stdout=log, stderr=log
            )
        told = call(tmp_path, "medseg-server", "run", COORDINATOR, "experiment.toml")
        assert "finished" in told, told
    finally:
        codes = {name: federation.stop(name) for name in reversed(federation.up)}
    assert set(codes.values()) == {0}, codes


def renewed_while_it_runs(root: Path, kit: str) -> None:
    """A new kit is taken; the egress process of the site uses it without being told."""
    shown = call(root, "medseg-server", "renew", COORDINATOR, APART)
    assert re.search(r"kit", shown), shown
    call(root, "medseg-site", "join", APART, kit)
    wait_until(lambda: "uses what has changed" in (root / f"{APART}.egress.log").read_text())
