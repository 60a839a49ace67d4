"""A node that only looks alive is found by what goes out of the site."""

import datetime as dt
import threading
import time
from pathlib import Path

import pytest

from medseg_client import node_watch
from medseg_client.node_watch import last_request, watch_node


def write(log: Path, *entries: tuple[str, float]) -> None:
    """Requests as the way out logs them: path, seconds ago."""
    with log.open("a") as file:
        for path, ago_s in entries:
            at = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=ago_s)
            file.write(
                f'{at.isoformat(timespec="seconds")} "POST /v1/fleet/{path}" 200 gateway=200 in=1 out=1 seconds=0.1\n'
            )


def watched(log: Path, seconds: float, *, is_at_work: bool = False) -> tuple[int, list[str]]:
    """How often a node was started anew, and what was told."""
    stop, restarts, told = threading.Event(), list[float](), list[str]()
    words = (log, lambda: is_at_work, lambda: restarts.append(time.monotonic()), told.append, stop)
    thread = threading.Thread(target=watch_node, args=words)
    thread.start()
    time.sleep(seconds)
    stop.set()
    thread.join()
    return len(restarts), told


def restarts_of(log: Path, seconds: float, *, is_at_work: bool = False) -> int:
    return watched(log, seconds, is_at_work=is_at_work)[0]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(node_watch, "LOOK_S", 0.05)
    monkeypatch.setattr(node_watch, "SILENT_S", 1.5)
    return tmp_path / "egress.access.log"


def test_the_newest_request_that_is_no_heartbeat_counts(log: Path) -> None:
    write(log, ("pull-messages", 50), ("pull-object", 40), ("send-node-heartbeat", 5))
    assert time.time() - last_request(log) == pytest.approx(40, abs=2)


@pytest.mark.parametrize("text", ["", "\n\x00garbage\n", "2026-13-45 POST /v1/fleet/pull-messages\n"])
def test_a_log_that_tells_nothing_is_no_request(log: Path, text: str) -> None:
    assert last_request(log) == 0
    log.write_text(text)
    assert last_request(log) == 0


def test_a_node_that_sends_heartbeats_alone_is_started_anew_again_and_again(log: Path) -> None:
    write(log, ("pull-messages", 100), ("send-node-heartbeat", 0))
    assert restarts_of(log, 3.6) == 2


def test_a_node_that_asks_is_left_alone(log: Path) -> None:
    write(log, ("pull-messages", -5))
    assert restarts_of(log, 2.5) == 0


def test_a_node_whose_relay_is_at_work_is_left_alone(log: Path) -> None:
    """It asks for nothing while a site trains, however long that takes."""
    write(log, ("pull-messages", 100), ("send-node-heartbeat", 0))
    assert restarts_of(log, 3.6, is_at_work=True) == 0


def test_where_the_log_cannot_be_read_that_is_told_once_and_the_node_is_left_alone(log: Path) -> None:
    n_restarts, told = watched(log, 4.0)
    assert n_restarts == 0
    (line,) = told
    assert "cannot be read" in line
