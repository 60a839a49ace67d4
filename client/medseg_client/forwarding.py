"""Connections passed on as they are: nothing is read, the TLS inside goes from end to end."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from medseg_core.errors import MedsegError

CONNECTIONS_MAX = 64  # a node holds a few
CONNECT_S = 10.0
IDLE_S = 150.0  # nginx, at one of the ends, gives up after 60 to 75
CHUNK_BYTES = 64 * 1024
LOOK_S = 0.2

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


class Forwarder:
    """Passes on what connects to it, through `connect`. Whoever cannot be passed on is hung up on; `tell` says why."""

    def __init__(self, connect: Connect, tell: Callable[[str], None]) -> None:
        self._connect, self._tell = connect, tell
        self._last_told = ""
        self._open: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection, if there are not too many."""
        if len(self._open) >= CONNECTIONS_MAX:
            self._say(f"more than {CONNECTIONS_MAX} connections at once: the newest are hung up on")
            writer.transport.abort()
            return
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def end(self) -> None:
        """Hang up on everybody."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it or falls silent."""
        try:
            async with asyncio.timeout(CONNECT_S):
                far_reader, far_writer = await self._connect()
        except TimeoutError:
            self._say(f"no answer within {CONNECT_S:.0f} s")
            writer.transport.abort()
            return
        except (OSError, MedsegError) as error:
            self._say(str(error))
            writer.transport.abort()
            return
        self._say("connected")
        _notice_a_vanished_peer(far_writer)
        ways = [
            asyncio.create_task(_carry(reader, far_writer)),
            asyncio.create_task(_carry(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.close()
            far_writer.close()

    def _say(self, what: str) -> None:
        """Each state once: a node tries again every few seconds."""
        if what != self._last_told:
            self._last_told = what
            self._tell(what)


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Bytes one way, until the end of them."""
    with contextlib.suppress(OSError):  # TimeoutError is one
        while True:
            async with asyncio.timeout(IDLE_S):
                data = await source.read(CHUNK_BYTES)
                if not data:
                    return
                sink.write(data)
                await sink.drain()


def _notice_a_vanished_peer(writer: asyncio.StreamWriter) -> None:
    """Have the kernel end a connection whose far side no longer acknowledges anything."""
    connection = writer.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(IDLE_S * 1000))


async def forward(
    connect: Connect, tell: Callable[[str], None], stop: threading.Event, *, at: Path | tuple[str, int]
) -> None:
    """Pass on what comes to a unix socket or a TCP port, until `stop` is set. Raises OSError where it cannot listen."""
    forwarder = Forwarder(connect, tell)
    if isinstance(at, Path):
        at.unlink(
            missing_ok=True
        )  # of a process that was killed; the caller sees to it that there is no second one
        server = await asyncio.start_unix_server(forwarder.accept, at)
    else:
        server = await asyncio.start_server(forwarder.accept, *at)
    tell("ready")
    async with server:
        while not stop.is_set():
            await asyncio.sleep(LOOK_S)
    await forwarder.end()
