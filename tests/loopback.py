"""A coordinator and hospitals as processes on loopback, for tests that use a federation or disturb it."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from medseg_core.supervision import free_ports, program
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

RUN_S = 240.0
COORDINATOR = "coordinator"
SITES = ("hospital-1", "hospital-2")


def call(folder: Path, *words: str, timeout_s: float = RUN_S) -> str:
    """What a command printed; it ended well."""
    done = subprocess.run(
        [program(words[0]), *words[1:]], cwd=folder, text=True, capture_output=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fingerprint_in(text: str) -> str:
    found = re.search(r"[0-9a-f]{4}(-[0-9a-f]{4}){4}", text)
    assert found is not None
    return found.group()


@dataclass(frozen=True)
class Loopback:
    """A federation of SITES in one folder; every hospital has approved `experiment.toml`."""

    root: Path
    up: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the newest run wrote down so far."""
        path = self.run / "events.jsonl" if self.runs else self.root / "none"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    @property
    def runs(self) -> list[Path]:
        """Folders of all runs, oldest first."""
        found = (self.root / COORDINATOR / "runs").glob("*/experiment.toml")
        return [path.parent for path in sorted(found, key=lambda p: p.stat().st_mtime_ns)]

    @property
    def run(self) -> Path:
        """Folder of the newest run."""
        return self.runs[-1]

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """`up` of the coordinator and of every hospital while inside; all stop cleanly afterwards."""
        names = (COORDINATOR, *SITES)
        for name in names:
            self.start(name)
        try:
            yield
        finally:
            codes = {name: self.stop(name) for name in names}
            assert codes == dict.fromkeys(names, 0)

    def start(self, name: str) -> None:
        """`up` of one."""
        command = "medseg-server" if name == COORDINATOR else "medseg-site"
        with (self.root / f"{name}.log").open("a") as log:
            self.up[name] = subprocess.Popen(
                [program(command), "up", name], cwd=self.root, stdout=log, stderr=log
            )

    def stop(self, name: str) -> int:
        """End `up` of one as a service manager does; its exit status."""
        self.up[name].send_signal(signal.SIGTERM)
        return self.up[name].wait(60)

    def simulated(self) -> Path:
        """Folder of the same experiment, simulated."""
        words = ("experiment.toml", "--data", "images", "--out", "simulated", "--cache", "cache")
        call(self.root, "medseg-simulate", "run", *words)
        return self.root / "simulated"

    def weights(self, run: Path) -> bytes:
        """The newest weights in the folder of a run."""
        return (max((run / "checkpoints").glob("round_*")) / "weights.safetensors").read_bytes()

    def find(self, role: str, owner: str) -> list[psutil.Process]:
        """Processes by role: those of ROLES, started by the supervisor of `owner`."""
        words = ROLES[role]
        folder = str(self.root / owner)
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                if all(word in line for word in words) and _belongs(process, folder):
                    found.append(process)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        return found


ROLES = {  # what the command line of a process holds
    "superlink": ("flower-superlink",),
    "superexec": ("flower-superexec",),
    "serverapp": ("flwr-serverapp",),
    "gateway": ("nginx: master", "gateway.conf"),
    "trainer": ("medseg_client trainer",),
    "egress": ("nginx: master", "egress.conf"),
    "node": ("flower-supernode",),
    "executor": ("flower-superexec",),
    "relay": ("flwr-clientapp",),
}
OF_COORDINATOR = ("superlink", "superexec", "serverapp", "gateway")


def _belongs(process: psutil.Process, folder: str) -> bool:
    """Whether a process, or the one that leads its session, names the folder."""
    leader = psutil.Process(os.getsid(process.pid))
    return any(f"{folder}/" in word or word == folder for p in (process, leader) for word in p.cmdline())


def allow_small_cohorts(settings: Path) -> None:
    """Phantom hospitals have a few patients each, fewer than a site gives figures of."""
    text, n_changed = re.subn(r"(min_patients_\w+) = 5", r"\1 = 1", settings.read_text())
    assert n_changed == 2
    settings.write_text(text)


def make_loopback(
    root: Path,
    experiment: str,
    *,
    cases: int,
    gateway_port: int | None = None,
    ports: Mapping[str, int] | None = None,
) -> Loopback:
    """A federation of phantom hospitals with 2D images; nothing runs yet.

    `ports` are those under which some hospitals reach the gateway, which listens at `gateway_port`.
    """
    write_phantoms(
        root / "images", PhantomSettings(sites=len(SITES), cases=cases, spatial_dims=2, voxel_mm=4.0)
    )
    (root / "experiment.toml").write_text(experiment)
    gateway_port = gateway_port or free_ports(1)[0]
    address = f"127.0.0.1:{gateway_port}"
    federation = call(root, "medseg-server", "init", COORDINATOR, "--name", "trial", "--address", address)
    header, *rows = (root / "images/manifest.csv").read_text().splitlines()
    for site in SITES:
        own = [row for row in rows if f",{site}," in row]
        (root / f"images/{site}.csv").write_text("\n".join((header, *own)) + "\n")
        settings = root / COORDINATOR / "server.toml"
        reached_at = f"127.0.0.1:{(ports or {}).get(site, gateway_port)}"
        settings.write_text(re.sub(r"(?m)^address = .*", f'address = "{reached_at}"', settings.read_text()))
        made = call(root, "medseg-site", "init", site, "--name", site, "--data", f"images/{site}.csv")
        request, kit = f"{site}/{site}.request.json", f"{COORDINATOR}/kits/{site}.kit.json"
        call(root, "medseg-server", "approve", COORDINATOR, request, "--fingerprint", fingerprint_in(made))
        call(root, "medseg-site", "join", site, kit, "--fingerprint", fingerprint_in(federation))
        allow_small_cohorts(root / site / "site.toml")
        call(root, "medseg-site", "approve", site, "experiment.toml", "--yes")
    settings.write_text(re.sub(r"(?m)^address = .*", f'address = "{address}"', settings.read_text()))
    return Loopback(root)
