"""Processes that are kept running: started, restarted when they die, stopped together.

What dies with its supervisor unnoticed (a kill -9) is found by the next one and ended before anything new starts.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from medseg_core.federation_errors import MissingProgramError
from medseg_core.files import write_atomic

LOOK_S = 0.25
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 10.0  # between restarts: doubled each time
STEADY_S = 60.0  # a process that ran so long starts with the first pause again
STOP_S = 10.0  # between asking a process to end and ending it
_ROOTS_FOLDERS = ("/usr/local/sbin", "/usr/sbin")  # where nginx lies, and not in everybody's search path
LOG_BYTES_MAX = 10_000_000  # then it goes on from nothing, and what it held is NAME.1.log
TRIM_S = 60.0  # between looks at the logs


@dataclass(frozen=True)
class Service:
    """A process to keep running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  # on top of ours


@dataclass(frozen=True)
class _Running:
    """A service's process, and when it began: together they are one process and no other."""

    process: subprocess.Popen[bytes]
    created: float


@dataclass
class _Unit:
    """Services that live and die together, and how they fare."""

    services: tuple[Service, ...]
    running: dict[str, _Running] = field(default_factory=dict)
    pause_s: float = FIRST_PAUSE_S
    started: float = 0.0
    start_at: float = 0.0


class Supervisor:
    """Keeps units of services running while `run` lasts. State lines go to `on_state`: service, what happened."""

    def __init__(
        self,
        units: Sequence[Sequence[Service]],
        *,
        logs: Path,
        notes: Path,
        on_state: Callable[[str, str], None],
        stop_s: float = STOP_S,
    ) -> None:
        """`logs` is the folder for what services say, `notes` the file that names those that run."""
        self._units = [_Unit(tuple(services)) for services in units]
        self._logs, self._notes, self._on_state, self._stop_s = logs, notes, on_state, stop_s

    def run(self, stop: threading.Event) -> None:
        """Keep everything running until `stop` is set, then end it all."""
        self._logs.mkdir(parents=True, exist_ok=True)
        end_leftovers(self._notes, stop_s=self._stop_s)
        trim_at = time.monotonic()
        try:
            while not stop.is_set():
                for unit in self._units:
                    self._look_after(unit)
                if time.monotonic() >= trim_at:
                    trim_logs(self._logs)
                    trim_at = time.monotonic() + TRIM_S
                stop.wait(LOOK_S)
        finally:
            for unit in reversed(self._units):
                self._end(unit)

    def restart(self, name: str) -> None:
        """End the unit of a service, so that it starts anew. For one that looks alive and is not."""
        self.signal(name, signal.SIGKILL)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a service, where it runs."""
        for unit in self._units:
            if (running := unit.running.get(name)) is not None:
                running.process.send_signal(number)

    def is_at_work(self, name: str) -> bool:
        """Whether a service runs and has started a process that runs, too."""
        for running in (unit.running.get(name) for unit in self._units):
            if running is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    children = psutil.Process(running.process.pid).children(recursive=True)
                    return any(child.status() != psutil.STATUS_ZOMBIE for child in children)
        return False

    def _look_after(self, unit: _Unit) -> None:
        """Start a unit that is due, end what is left of one of which a process died."""
        now = time.monotonic()
        if not unit.running:
            if now >= unit.start_at:
                self._start(unit)
            return
        dead = [(n, r.process.returncode) for n, r in unit.running.items() if r.process.poll() is not None]
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
            with (self._logs / f"{service.name}.log").open("ab") as log:
                process = subprocess.Popen(  # noqa: S603
                    service.command,
                    env={**os.environ, "PATH": _search_path(), **service.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for the supervisor, which ends the others in order
                )
            unit.running[service.name] = _Running(process, _created(process.pid))
            self._on_state(service.name, "started")
        self._note()

    def _end(self, unit: _Unit) -> None:
        """Ask every process of a unit to end, and all that they started; end what does not."""
        end_sessions([(r.process.pid, r.created) for r in unit.running.values()], stop_s=self._stop_s)
        for running in unit.running.values():
            running.process.wait()
        unit.running.clear()
        self._note()

    def _note(self) -> None:
        """Write down what is running, for the supervisor after a crash."""
        running = [r for unit in self._units for r in unit.running.values()]
        write_atomic(self._notes, json.dumps([[r.process.pid, r.created] for r in running]).encode())


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


def reload_nginx(pid_file: Path) -> None:
    """Have a running nginx read its files again, without an interruption; nothing if it does not run."""
    with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text()))
        if process.name() == "nginx":  # a file that a crash left may name another process by now
            process.send_signal(signal.SIGHUP)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    with contextlib.ExitStack() as probes:
        found = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in found:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in found]


def trim_logs(folder: Path) -> None:
    """Move what large logs hold aside. Whoever writes appends, and goes on in the same file."""
    for log in folder.glob("*.log"):
        if log.name.endswith(".1.log"):
            continue
        with contextlib.suppress(OSError):  # a full disk ends no process
            if log.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(log, log.with_suffix(".1.log"))
                os.truncate(log, 0)


def end_leftovers(noted: Path, *, stop_s: float = STOP_S) -> None:
    """End what an earlier supervisor left: its services that still run, and what they started."""
    try:
        entries = [(int(pid), float(created)) for pid, created in json.loads(noted.read_bytes())]
    except (OSError, ValueError, TypeError):
        return
    end_sessions(entries, stop_s=stop_s)


def end_sessions(leaders: Sequence[tuple[int, float]], *, stop_s: float) -> None:
    """Ask all processes in the sessions of `leaders` (number, start time) to end; end those that do not in `stop_s`.

    A service leads a session of its own, and what it starts stays in it, also when the service itself has died.
    """
    left = [process for leader in leaders for process in _session(*leader)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(left, timeout=stop_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=STOP_S)


def _created(number: int) -> float:
    """When a process of ours began, in seconds since 1970; 0 if it has ended already."""
    try:
        return psutil.Process(number).create_time()
    except psutil.NoSuchProcess:
        return 0.0


def _session(leader: int, created: float) -> list[psutil.Process]:
    """The processes of a session. Another that has the leader's number since began later and is not meant."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if psutil.Process(leader).create_time() != created:
            return []
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found
