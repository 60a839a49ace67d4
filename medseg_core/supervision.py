"""Processes that are kept running: started, restarted when they die, stopped together.

What dies with its supervisor unnoticed (a kill -9) is found by the next one and ended before anything new starts.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from medseg_core.errors import MissingProgramError
from medseg_core.files import write_atomic

LOOK_S = 0.25
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # between restarts: doubled each time
STEADY_S = 60.0  # a process that ran so long starts with the first pause again
STOP_S = 10.0  # between asking a process to end and ending it
_ROOTS_FOLDERS = ("/usr/local/sbin", "/usr/sbin")  # where nginx lies, and not in everybody's search path
LOG_BYTES_MAX = 10_000_000  # then it becomes NAME.1.log when the process is next started


@dataclass(frozen=True)
class Service:
    """A process to keep running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  # on top of ours


@dataclass
class _Unit:
    """Services that live and die together, and how they fare."""

    services: tuple[Service, ...]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    pause_s: float = FIRST_PAUSE_S
    started: float = 0.0
    start_at: float = 0.0


class Supervisor:
    """Keeps units of services running while `run` lasts. State lines go to `on_state`: service, what happened."""

    def __init__(
        self, units: Sequence[Sequence[Service]], folder: Path, *, on_state: Callable[[str, str], None]
    ) -> None:
        self._units = [_Unit(tuple(services)) for services in units]
        self._logs, self._pids, self._on_state = folder / "logs", folder / "run" / "processes.json", on_state

    def run(self, stop: threading.Event) -> None:
        """Keep everything running until `stop` is set, then end it all."""
        self._logs.mkdir(parents=True, exist_ok=True)
        end_leftovers(self._pids)
        try:
            while not stop.is_set():
                for unit in self._units:
                    self._look_after(unit)
                stop.wait(LOOK_S)
        finally:
            for unit in reversed(self._units):
                self._end(unit)

    def restart(self, name: str) -> None:
        """End the unit of a service, so that it starts anew. For one that looks alive and is not."""
        for unit in self._units:
            for process in (unit.running[s.name] for s in unit.services if s.name == name and unit.running):
                process.kill()

    def _look_after(self, unit: _Unit) -> None:
        """Start a unit that is due, end what is left of one of which a process died."""
        now = time.monotonic()
        if not unit.running:
            if now >= unit.start_at:
                self._start(unit)
            return
        dead = [(name, p.returncode) for name, p in unit.running.items() if p.poll() is not None]
        if not dead:
            return
        unit.pause_s = FIRST_PAUSE_S if now - unit.started > STEADY_S else unit.pause_s
        for name, code in dead:
            self._on_state(name, f"ended with status {code}; starts again in {unit.pause_s:.0f} s")
        self._end(unit)
        unit.start_at = now + unit.pause_s
        unit.pause_s = min(2 * unit.pause_s, LONGEST_PAUSE_S)

    def _start(self, unit: _Unit) -> None:
        unit.started = time.monotonic()
        for service in unit.services:
            with _log(self._logs, service.name).open("ab") as log:
                unit.running[service.name] = subprocess.Popen(  # noqa: S603
                    service.command,
                    env={**os.environ, "PATH": _search_path(), **service.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for the supervisor, which ends the others in order
                )
            self._on_state(service.name, "started")
        self._note()

    def _end(self, unit: _Unit) -> None:
        """Ask every process of a unit to end, last started first; end what does not."""
        processes = [psutil.Process(p.pid) for p in unit.running.values() if p.poll() is None]
        end_all(list(reversed(processes)))
        for process in unit.running.values():
            process.wait()
        unit.running.clear()
        self._note()

    def _note(self) -> None:
        """Write down what is running, for the supervisor after a crash."""
        pids = [p.pid for unit in self._units for p in unit.running.values()]
        found = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append([pid, psutil.Process(pid).create_time()])
        write_atomic(self._pids, json.dumps(found).encode())


def program(name: str) -> str:
    """Path of a program that was installed with this Python."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def _search_path() -> str:
    """Flower's processes start others of its programs by name."""
    return sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", os.defpath)


def nginx(configuration: Path, error_log: Path) -> tuple[str, ...]:
    """nginx in the foreground. Raises MissingProgramError."""
    found = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_ROOTS_FOLDERS)))
    if found is None:
        raise MissingProgramError("nginx", "apt-get install nginx-light, or your system's package of nginx")
    command = (found, "-e", str(error_log), "-p", str(configuration.parent), "-c", str(configuration))
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return (*command, "-g", "user root;") if is_root else command  # or workers could not enter the folder


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    with contextlib.ExitStack() as probes:
        found = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in found:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in found]


def end_leftovers(noted: Path) -> None:
    """End the processes that an earlier supervisor left, with their children; nothing else has their start time."""
    try:
        entries = json.loads(noted.read_bytes())
    except (OSError, ValueError):
        return
    left = []
    for pid, created in entries:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.create_time() == created:
                left.append(process)
    end_all(left)


def end_all(processes: Sequence[psutil.Process]) -> None:
    """Ask processes and their children to end; end them after STOP_S."""
    family = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += [process, *process.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=STOP_S)


def _log(folder: Path, name: str) -> Path:
    """The log of a service; a large one is moved aside first."""
    path = folder / f"{name}.log"
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(folder / f"{name}.1.log")
    return path
