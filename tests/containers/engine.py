"""A container engine, and the demonstration's federation on it, for tests."""

import functools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from documents import ROOT
from waiting import wait_until

STARTER = (
    ROOT.parent / "shared" / "tools" / "container-engine.sh"
)  # where a machine without an engine has one to start
COORDINATOR, HOSPITALS = "coordinator", ("hospital-1", "hospital-2")
SERVICES = {COORDINATOR: ("gateway", "superlink", "superexec")} | dict.fromkeys(
    HOSPITALS, ("trainer", "relay", "egress")
)
PATIENCE_S = 240.0
RUN = "/federation/runs"
DEBIANS = "/usr/bin/docker"
SCRIPT = ROOT / "deploy/demo/demo.sh"


def call(*words: str | Path, timeout_s: float = PATIENCE_S, **more: str) -> str:
    """What a command printed; it ended well. `more` goes into its environment."""
    done = subprocess.run(
        words,
        text=True,
        capture_output=True,
        timeout=timeout_s,
        env=os.environ | more,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@functools.cache
def docker_program() -> str | None:
    """A distribution's own client before others: a bare one elsewhere may lack what builds images."""
    return DEBIANS if Path(DEBIANS).exists() else shutil.which("docker")


def compose_program() -> str:
    """Docker's own compose where the client has it, docker-compose elsewhere."""
    docker = docker_program() or "docker"
    has_it = subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0
    return f"{docker} compose" if has_it else "docker-compose"


def engine_answers() -> bool:
    docker = docker_program()
    return docker is not None and subprocess.run([docker, "info"], capture_output=True).returncode == 0


def docker(*words: str | Path, timeout_s: float = PATIENCE_S) -> str:
    return call(docker_program() or "docker", *words, timeout_s=timeout_s)


def build_images(tag: str) -> None:
    """Both, as `make images` does."""
    words = (f"TAG={tag}", "BUILD_FLAGS=--network=host", f"TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}")
    call(
        "make", "-C", ROOT, "images", *words, f"DOCKER={docker_program()}", timeout_s=900, DOCKER_BUILDKIT="1"
    )


@dataclass(frozen=True)
class Containers:
    """A coordinator and two hospitals, each with the compose file that it would use on a machine of its own."""

    root: Path
    tag: str

    def demo(self, action: str, *words: str, timeout_s: float = PATIENCE_S, tag: str | None = None) -> str:
        """deploy/demo/demo.sh for this federation."""
        return call(SCRIPT, action, self.root, *words, timeout_s=timeout_s, **self._environment(tag))

    def compose(self, owner: str, *words: str, tag: str | None = None) -> str:
        return self.demo("compose", owner, *words, tag=tag)

    def piped(self, owner: str, *words: str, data: bytes = b"") -> bytes:
        """What a compose command wrote, which read `data`."""
        done = subprocess.run(
            [SCRIPT, "compose", self.root, owner, *words],
            input=data,
            capture_output=True,
            timeout=PATIENCE_S,
            env=os.environ | self._environment(),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _environment(self, tag: str | None = None) -> dict[str, str]:
        images = {
            f"MEDSEG_{role.upper()}_IMAGE": f"medseg-{role}:{tag or self.tag}" for role in ("site", "server")
        }
        programs = {"DOCKER": docker_program() or "docker", "COMPOSE": compose_program()}
        experiment = {
            "EXPERIMENT": str(self.root.parent / "experiment.toml"),
            "PHANTOMS": "--cases 4 --spatial-dims 2",
        }
        return images | programs | experiment

    def container(self, owner: str, service: str) -> str:
        """Identifier of a container, running or not."""
        labels = {"project": f"medseg-{self.root.name}-{owner}", "service": service}
        filters = [f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels.items()]
        (found,) = docker(
            "ps", "--all", "--quiet", "--filter=label=com.docker.compose.oneoff=False", *filters
        ).split()
        return found

    def inside(self, owner: str, service: str, *words: str) -> str:
        """What a command printed in a container."""
        return docker("exec", self.container(owner, service), *words)

    def python(self, owner: str, service: str, code: str) -> str:
        return self.inside(owner, service, "python", "-c", code)

    def begin_run(self) -> str:
        """Start a run and follow it no further; its name."""
        before = self.runs()
        words = ("medseg-server", "run", "/federation", "/exchange/experiment.toml")
        docker("exec", "--detach", self.container(COORDINATOR, "superlink"), *words)
        wait_until(lambda: len(self.runs()) > len(before))
        (name,) = set(self.runs()) - set(before)
        return name

    def runs(self) -> list[str]:
        return self.inside(COORDINATOR, "superlink", "ls", RUN).split()

    def events(self, run: str) -> list[dict[str, object]]:
        """What a run wrote down so far; nothing while the container is away."""
        try:
            text = self.inside(COORDINATOR, "superlink", "cat", f"{RUN}/{run}/events.jsonl")
        except AssertionError:
            return []
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def has(self, run: str, event: str) -> bool:
        return any(found["event"] == event for found in self.events(run))

    def weights(self, run: str) -> str:
        """SHA-256 of the newest global weights of a run."""
        code = (
            f"import hashlib, pathlib; folder = max(pathlib.Path('{RUN}/{run}/checkpoints').glob('round_*')); "
            "print(hashlib.sha256((folder / 'weights.safetensors').read_bytes()).hexdigest())"
        )
        return self.python(COORDINATOR, "superlink", code)
