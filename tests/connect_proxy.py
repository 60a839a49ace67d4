"""An HTTP proxy of a hospital on loopback: CONNECT alone, with or without a login, in moods that such proxies have."""

import asyncio
import base64
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

CHUNK_BYTES = 64 * 1024
Mood = Literal["well", "forbidding", "silent", "talkative", "no proxy", "hanging up"]


@dataclass
class ConnectProxy:
    """Opens tunnels for who gives the login. May be changed at any time."""

    login: str | None = None
    mood: Mood = "well"
    is_away: bool = False  # tunnels are cut, nobody listens
    port: int = 0
    asked: list[str] = field(default_factory=list)  # whole heads of requests
    first_bytes: list[bytes] = field(default_factory=list)  # of what went through each tunnel
    tunnels: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, is_ready: threading.Event, stop: asyncio.Event) -> None:
        """Listen, but while away, until `stop`."""
        while not stop.is_set():
            server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
            self.port = server.sockets[0].getsockname()[1]
            is_ready.set()
            while not (stop.is_set() or self.is_away):
                await asyncio.sleep(0.05)
            server.close()
            for tunnel in self.tunnels:
                tunnel.cancel()
            await asyncio.gather(*self.tunnels, return_exceptions=True)
            while self.is_away and not stop.is_set():
                await asyncio.sleep(0.05)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tunnels.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self.tunnels.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        method, address, _ = head.split("\r\n")[0].split(" ")
        wanted = base64.b64encode((self.login or "").encode()).decode()
        match self.mood:
            case "silent":
                await asyncio.sleep(3600)
            case "hanging up":
                return
            case "no proxy":
                writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            case _ if self.login is not None and f"Proxy-Authorization: Basic {wanted}" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nwho?")
            case _ if self.mood == "forbidding" or method != "CONNECT":
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            case _:
                await self._pass(address, reader, writer)
        await writer.drain()

    async def _pass(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = address.rsplit(":", 1)
        far_reader, far = await asyncio.open_connection(host, int(port))
        more = b"Via: 1.1 proxy\r\nX-Cache: MISS\r\n" * 20 if self.mood == "talkative" else b""
        writer.write(b"HTTP/1.1 200 Connection established\r\n" + more + b"\r\n")
        ways = [asyncio.create_task(self._carry(reader, far, is_up=True))]
        ways.append(asyncio.create_task(self._carry(far_reader, writer, is_up=False)))
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_up: bool) -> None:
        is_first = is_up
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if is_first:
                    self.first_bytes.append(data[:3])
                    is_first = False
                sink.write(data)
                await sink.drain()


@contextmanager
def connect_proxy(login: str | None = None) -> Iterator[ConnectProxy]:
    """A proxy while inside."""
    proxy, is_ready = ConnectProxy(login), threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(is_ready, stop),))
    thread.start()
    assert is_ready.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
