"""A supervisor over real processes: what dies starts again, what belongs together goes together, nothing is left."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from medseg_core.supervision import Service, Supervisor

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="servers and hospitals run on POSIX systems")
SLEEPER = (
    "import pathlib, os, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
)
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER


def service(folder: Path, name: str, code: str = SLEEPER) -> Service:
    """A process that writes its number into a file and waits."""
    return Service(name, (sys.executable, "-c", code, str(folder / f"{name}.pid")))


def pid_of(folder: Path, name: str, *, other_than: int = 0) -> int:
    """Number of the process that runs now."""
    found = 0

    def is_there() -> bool:
        nonlocal found
        path = folder / f"{name}.pid"
        found = int(path.read_text() or 0) if path.exists() else 0
        return found not in (0, other_than)

    wait_until(is_there)
    return found


@contextmanager
def supervising(units: list[list[Service]], folder: Path) -> Iterator[list[tuple[str, str]]]:
    """A supervisor at work; yields what it says."""
    said: list[tuple[str, str]] = []
    stop = threading.Event()
    logs, notes = folder / "logs", folder / "run/processes.json"
    supervisor = Supervisor(
        units, logs=logs, notes=notes, on_state=lambda name, state: said.append((name, state))
    )
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        yield said
    finally:
        stop.set()
        thread.join()


def test_what_dies_starts_again_and_the_supervisor_says_so(tmp_path: Path) -> None:
    with supervising([[service(tmp_path, "a")], [service(tmp_path, "b")]], tmp_path) as said:
        first, untouched = pid_of(tmp_path, "a"), pid_of(tmp_path, "b")
        os.kill(first, signal.SIGKILL)
        pid_of(tmp_path, "a", other_than=first)
        assert pid_of(tmp_path, "b") == untouched
    assert ("a", "ended with status -9; starts again in 1 s") in said


def test_services_of_a_unit_start_anew_together(tmp_path: Path) -> None:
    with supervising([[service(tmp_path, "node"), service(tmp_path, "relay")]], tmp_path):
        node, relay = pid_of(tmp_path, "node"), pid_of(tmp_path, "relay")
        os.kill(relay, signal.SIGKILL)
        pid_of(tmp_path, "node", other_than=node)
        pid_of(tmp_path, "relay", other_than=relay)
        assert not psutil.pid_exists(node)


def test_what_a_dead_process_had_started_is_ended_before_it_starts_again(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "import pathlib, os; pathlib.Path(sys.argv[1] + '.child').write_text(str(child.pid))\n" + SLEEPER
    )
    with supervising([[service(tmp_path, "parent", code)]], tmp_path):
        parent = pid_of(tmp_path, "parent")
        child = int((tmp_path / "parent.pid.child").read_text())
        os.kill(parent, signal.SIGKILL)
        pid_of(tmp_path, "parent", other_than=parent)
        assert not psutil.pid_exists(child)


def test_stopping_ends_every_process_also_one_that_will_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg_core.supervision.STOP_S", 0.5)
    with supervising([[service(tmp_path, "a")], [service(tmp_path, "deaf", STUBBORN)]], tmp_path):
        pids = [pid_of(tmp_path, "a"), pid_of(tmp_path, "deaf")]
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_pauses_between_restarts_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg_core.supervision.FIRST_PAUSE_S", 0.05)
    with supervising([[Service("broken", (sys.executable, "-c", "raise SystemExit(3)"))]], tmp_path) as said:
        wait_until(lambda: len([s for _, s in said if s.startswith("ended")]) >= 3)
    assert said[1][1].startswith("ended with status 3")


def test_what_a_killed_supervisor_left_is_ended_before_anything_starts(tmp_path: Path) -> None:
    code = (
        "import sys, threading; from pathlib import Path; "
        "from medseg_core.supervision import Service, Supervisor; "
        "folder, *command = sys.argv[1:]; "
        "notes = Path(folder) / 'run/processes.json'; "
        "words = dict(logs=Path(folder) / 'logs', notes=notes, on_state=lambda *_: None); "
        "Supervisor([[Service('a', tuple(command))]], **words).run(threading.Event())"
    )
    killed = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *service(tmp_path, "a").command])
    left = pid_of(tmp_path, "a")
    wait_until(lambda: str(left) in (tmp_path / "run/processes.json").read_text())
    killed.kill()
    killed.wait()
    assert psutil.pid_exists(left)
    with supervising([[service(tmp_path, "a")]], tmp_path):
        pid_of(tmp_path, "a", other_than=left)
        assert not psutil.pid_exists(left)


def test_a_process_that_only_has_the_number_of_an_old_one_is_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/processes.json").write_text(json.dumps([[bystander.pid, 1.0]]))
    try:
        with supervising([], tmp_path):
            pass
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_what_a_process_says_is_in_its_log(tmp_path: Path) -> None:
    with supervising([[Service("talker", (sys.executable, "-c", "print('hello')"))]], tmp_path):
        log = tmp_path / "logs/talker.log"
        wait_until(lambda: log.exists() and "hello" in log.read_text())


def test_a_large_log_goes_on_from_nothing_while_its_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg_core.supervision.LOG_BYTES_MAX", 20_000)
    monkeypatch.setattr("medseg_core.supervision.TRIM_S", 0.05)
    code = "import time\nfor n in range(10**9): print(f'line {n}', flush=True); time.sleep(1e-4)"
    with supervising([[Service("talker", (sys.executable, "-c", code))]], tmp_path):
        aside, log = tmp_path / "logs/talker.1.log", tmp_path / "logs/talker.log"
        wait_until(aside.exists)
        wait_until(lambda: 0 < log.stat().st_size < 20_000 and b"\0" not in log.read_bytes())
    assert "line 0" in aside.read_text()


def test_a_service_is_at_work_while_a_process_that_it_started_runs(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; subprocess.run([sys.executable, '-c', 'import time; time.sleep(2)']); "
        + SLEEPER
    )
    stop = threading.Event()
    words = {"logs": tmp_path / "logs", "notes": tmp_path / "run/processes.json"}
    supervisor = Supervisor([[service(tmp_path, "a", code)]], **words, on_state=lambda name, state: None)
    assert not supervisor.is_at_work("a")
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: supervisor.is_at_work("a"))
        wait_until(lambda: not supervisor.is_at_work("a"))
    finally:
        stop.set()
        thread.join()
