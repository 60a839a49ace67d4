"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable

PATIENCE_S = 240.0  # for what a healthy machine does in seconds; this one may be busy


def wait_until(is_so: Callable[[], bool], timeout_s: float = PATIENCE_S, *, look_s: float = 0.05) -> None:
    """Return as soon as it is so; an assertion fails where it does not become so in time."""
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, is_so
        time.sleep(look_s)
