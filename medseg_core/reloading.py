"""nginx reads again what has changed while it runs: its files, and the addresses of the names that it was given.

It resolves names when it reads its configuration and never again: a peer that came back under another address, as
containers do, would stay away for ever.
"""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

LOOK_S = 2.0


def follow(state: Callable[[], object], reload: Callable[[], None], stop: threading.Event) -> None:
    """Have nginx read again whenever `state`, which is what it would read now, has changed; until `stop` is set."""
    known = state()
    while not stop.wait(LOOK_S):
        found = state()
        if found != known:
            reload()
            known = found


def content(file: Path) -> bytes | None:
    """Of a file; None while it is not there."""
    try:
        return file.read_bytes()
    except OSError:
        return None


def addresses(host: str) -> tuple[str, ...]:
    """What a name stands for; nothing while nobody knows it: nginx refuses that and goes on with what it has."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(sorted(str(address[0]) for *_, address in found))
