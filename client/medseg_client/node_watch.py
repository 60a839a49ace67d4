"""Whether the node still asks for messages, told by what goes out of the site."""

import contextlib
import datetime as dt
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

LOOK_S = 5.0
SILENT_S = 90.0
TAIL_BYTES = 64 * 1024  # of a log: hundreds of its lines


def watch_node(
    log: Path,
    is_at_work: Callable[[], bool],
    restart: Callable[[], None],
    tell: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Restart a node whose requests, seen in the log of the way out, are heartbeats and nothing else.

    It asks for messages every 3 s, but while the relay is at work on one. A node whose relay died without a word says
    that it is alive, and never asks again. Where the log cannot be read, that is told once, and nothing is restarted.
    """
    heard = seen = time.time()
    is_told = False
    while not stop.wait(LOOK_S):
        now = time.time()
        if os.access(log, os.R_OK):
            heard, seen = now if is_at_work() else max(heard, last_request(log)), now
            if now - heard > SILENT_S:
                tell(f"has not asked for messages for {SILENT_S:.0f} s")
                restart()
                heard = time.time()
        else:
            heard = now
            if now - seen > SILENT_S and not is_told:
                tell(f"{log} cannot be read: a node that only looks alive is not noticed")
                is_told = True


def last_request(log: Path) -> float:
    """When the newest request that is no heartbeat went out, in seconds since 1970; 0 for none that can be seen."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return 0.0
    for line in reversed(lines):
        if "/v1/fleet/" in line and "send-node-heartbeat" not in line:
            with contextlib.suppress(ValueError):
                return dt.datetime.fromisoformat(line.split(" ", 1)[0]).timestamp()
    return 0.0
