"""A TCP proxy on loopback that behaves as networks between hospitals do: slow, stalling, resetting, gone."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

CHUNK_BYTES = 256 * 1024
LOOK_S = 0.05


@dataclass
class Weather:
    """How the network is just now; may be changed at any time."""

    delay_s: float = 0.0  # each way
    up_bytes_s: float | None = None  # from the hospital outwards
    is_stalled: bool = False  # connections stay, nothing arrives
    is_down: bool = False  # connections are reset, new ones too
    is_vanished: bool = (
        False  # both sides talk to nobody, and no connection of that time is ever told its end
    )
    reset_after_bytes: int | None = None  # then the connection is reset

    def clear(self) -> None:
        """A good network again."""
        self.__init__()  # type: ignore[misc]


@dataclass
class FaultyNetwork:
    """Passes connections to `port` on to `target`, through the weather."""

    target: int
    weather: Weather = field(default_factory=Weather)
    port: int = 0
    connections: int = 0
    swallowed_bytes: int = 0

    async def serve(self, is_ready: threading.Event, stop: asyncio.Event) -> None:
        """Listen until `stop`."""
        server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        is_ready.set()
        await stop.wait()
        server.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side or the weather ends it."""
        self.connections += 1
        far: asyncio.StreamWriter | None = None
        try:
            if self.weather.is_down:
                return
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target)
            is_dead = asyncio.Event()
            watch = asyncio.create_task(self._until_vanished(is_dead))
            ways = [
                asyncio.create_task(self._carry(reader, far, is_dead, is_up=True)),
                asyncio.create_task(self._carry(far_reader, writer, is_dead, is_up=False)),
                asyncio.create_task(self._until_down()),
            ]
            _, pending = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in (watch, *pending):
                way.cancel()
            await asyncio.gather(watch, *pending, return_exceptions=True)
        except OSError:
            pass
        finally:
            for end in (writer, far):
                if end is not None:
                    _reset(end)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        is_dead: asyncio.Event,
        *,
        is_up: bool,
    ) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while (data := await source.read(CHUNK_BYTES)) or is_dead.is_set():
                if is_dead.is_set():
                    self.swallowed_bytes += len(data)
                    if not data:
                        await asyncio.Event().wait()  # the other side is not told
                    continue
                if self.weather.delay_s:
                    await asyncio.sleep(self.weather.delay_s)
                if is_up and self.weather.up_bytes_s:
                    await asyncio.sleep(len(data) / self.weather.up_bytes_s)
                while self.weather.is_stalled:
                    await asyncio.sleep(LOOK_S)
                carried += len(data)
                if self.weather.reset_after_bytes is not None and carried > self.weather.reset_after_bytes:
                    return
                sink.write(data)
                await sink.drain()

    async def _until_vanished(self, is_dead: asyncio.Event) -> None:
        while not self.weather.is_vanished:
            await asyncio.sleep(LOOK_S)
        is_dead.set()

    async def _until_down(self) -> None:
        while not self.weather.is_down:
            await asyncio.sleep(LOOK_S)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, as a firewall does that has forgotten the connection."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def faulty_network(target: int) -> Iterator[FaultyNetwork]:
    """A proxy to port `target` of loopback while inside."""
    network, is_ready = FaultyNetwork(target), threading.Event()
    runner, stop = asyncio.Runner(), asyncio.Event()
    loop = runner.get_loop()

    def serve() -> None:
        with runner:  # ends every connection that is still open
            runner.run(network.serve(is_ready, stop))

    thread = threading.Thread(target=serve)
    thread.start()
    assert is_ready.wait(10)
    try:
        yield network
    finally:
        network.weather.is_down = True
        loop.call_soon_threadsafe(stop.set)
        thread.join()
