"""The hospital's HTTP proxy: a tunnel through it to the gateway. It is told an address, and sees TLS alone.

nginx cannot ask a proxy for a tunnel, so a process of ours stands between the two. `check` asks in the same words.
"""

import asyncio
import base64
import contextlib
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from medseg_client.forwarding import Streams, forward
from medseg_client.login_file import read_login
from medseg_client.site_folder import Role, SiteFolder
from medseg_core.federation_errors import ProxyRefusedError

ANSWER_BYTES_MAX = 16 * 1024  # of a proxy's answer up to its empty line; some add long pages after it


@dataclass(frozen=True)
class Proxy:
    """Where the proxy is, and who we are to it."""

    host: str
    port: int
    login: str | None = field(repr=False)  # USER:PASSWORD

    def question(self, address: str) -> bytes:
        """What asks it for a tunnel to HOST:PORT."""
        lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
        if self.login is not None:
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(self.login.encode()).decode()}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def proxy_of(folder: SiteFolder) -> Proxy | None:
    """The proxy that site.toml names. Raises LoginFileError."""
    url = folder.settings.upstream_proxy
    if url is None:
        return None
    parts = urlsplit(url)
    assert parts.hostname is not None, "site.toml was checked"
    assert parts.port is not None, "site.toml was checked"
    return Proxy(parts.hostname, parts.port, read_login(folder.proxy_login))


def require_tunnel(answer: bytes, address: str) -> None:
    """The proxy has opened the tunnel. Raises ProxyRefusedError."""
    words = answer.split(b"\r\n", 1)[0].split()
    status = int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else 0
    if not 200 <= status < 300:
        raise ProxyRefusedError(address, status)


def open_tunnel(proxy: Proxy, address: str, *, timeout_s: float) -> socket.socket:
    """A connection to HOST:PORT through the proxy. Raises OSError, ProxyRefusedError."""
    connection = socket.create_connection((proxy.host, proxy.port), timeout=timeout_s)
    try:
        connection.sendall(proxy.question(address))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):  # a byte at a time: what follows is the gateway's
            if not (data := connection.recv(1)) or len(answer) > ANSWER_BYTES_MAX:
                break
            answer += data
        require_tunnel(answer, address)
    except BaseException:
        connection.close()
        raise
    return connection


def run_tunnel(folder: SiteFolder, stop: threading.Event) -> None:
    """Pass on what nginx sends to the tunnel's socket, through the proxy to the gateway. Raises LoginFileError."""
    proxy = proxy_of(folder)
    assert proxy is not None, "started for a site without a proxy"

    async def connect() -> Streams:
        address = folder.kit.address  # read each time: a new kit may name another
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=ANSWER_BYTES_MAX)
        try:
            writer.write(proxy.question(address))
            answer = b""
            with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                answer = await reader.readuntil(b"\r\n\r\n")
            require_tunnel(answer, address)
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    asyncio.run(forward(connect, stop, at=tunnel_socket(folder)))


def tunnel_socket(folder: SiteFolder) -> Path:
    """Where nginx finds the tunnel."""
    return folder.run(Role.EGRESS).absolute() / "tunnel.sock"
