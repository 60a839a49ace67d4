"""The real gateway with real certificates, and a stub in the superlink's place."""

import base64
import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from enrolment import make_server, make_site
from waiting import wait_until

from medseg_client.joining import accept
from medseg_core.supervision import free_ports, nginx
from medseg_core.wire.enrolment import GATEWAY_NAME
from medseg_server.enrolling import enrol
from medseg_server.gateway import reload_gateway, write_admission, write_gateway
from medseg_server.server_folder import ServerFolder

PULL = "/v1/fleet/pull-messages"
PATIENCE_S = 20.0


class Superlink(ThreadingHTTPServer):
    """Answers 200 to all that reaches it, and notes what did."""

    daemon_threads = True

    def __init__(self, folder: ServerFolder) -> None:
        super().__init__(("127.0.0.1", folder.settings.superlink_port), _Answer)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder.server("superlink", "crt"), folder.server("superlink", "key"))
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.reached: list[str] = []
        self.headers: list[dict[str, str]] = []


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        assert isinstance(self.server, Superlink)
        self.server.reached.append(f"{self.command} {self.path}")
        self.server.headers.append(dict(self.headers))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815

    def log_message(self, *words: object) -> None:
        pass


@dataclass(frozen=True)
class Caller:
    """A certificate to show, and a node key to name."""

    port: int
    authority: Path
    certificate: Path | None
    key: Path | None
    node_key: str  # as Flower sends it

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.authority))
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        return context.wrap_socket(plain, server_hostname=GATEWAY_NAME)

    def head(self, method: str, path: str, length: int = 0, node_key: str | None = None) -> bytes:
        words = (
            f"{method} {path} HTTP/1.1",
            "Host: superlink",
            f"Content-Length: {length}",
            f"flwr-public-key: {self.node_key if node_key is None else node_key}",
            "flwr-signature: c2VjcmV0",
        )
        return ("\r\n".join(words) + "\r\n\r\n").encode()

    def status(self, method: str, path: str, *, body: bytes = b"", node_key: str | None = None) -> int:
        """The status of an answer on a new connection."""
        with self.connect() as connection:
            connection.sendall(self.head(method, path, len(body), node_key))
            with contextlib.suppress(OSError):  # an answer may come before all of the body is sent
                connection.sendall(body)
            return status_in(connection)


def status_in(connection: ssl.SSLSocket) -> int:
    """The status of the next answer; 0 if the connection is at its end."""
    try:
        received = connection.recv(65536)
    except OSError:
        return 0
    return int(received.split()[1]) if received else 0


@dataclass
class Federation:
    """A gateway that runs."""

    folder: Path
    server: ServerFolder
    superlink: Superlink
    port: int

    def caller(self, name: str) -> Caller:
        """A site that was enrolled."""
        site, request = make_site(self.folder / name, name)
        accept(site, enrol(self.server, request))
        return self.of(site.root, request.node_key)

    def of(self, root: Path, node_key: str) -> Caller:
        pem = serialization.load_ssh_public_key(node_key.encode()).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        paths = (self.server.authority("crt"), root / "pki/site.crt", root / "keys/tls.key")
        return Caller(self.port, *paths, base64.b64encode(pem).decode())

    def let_in(self) -> None:
        """What the steward does when the roster changed."""
        write_admission(self.server)
        reload_gateway(self.server)

    def log(self, name: str = "access") -> str:
        return (self.server.root / f"logs/gateway.{name}.log").read_text()


def wait_for(caller: Caller, status: int) -> None:
    """A reload has come through: the workers of before take no more connections."""
    wait_until(lambda: all(caller.status("POST", PULL) == status for _ in range(5)))


@contextmanager
def running_gateway(folder: Path) -> Iterator[Federation]:
    """A gateway that nobody has joined yet, while inside."""
    port, inner = free_ports(2)
    server = make_server(folder / "server", address=f"127.0.0.1:{port}", superlink_port=inner)
    superlink = Superlink(server)
    threading.Thread(target=superlink.serve_forever, daemon=True).start()
    for name in ("logs", "run"):
        (server.root / name).mkdir()
    command = nginx(write_gateway(server).absolute(), server.root.absolute() / "logs/gateway.error.log")
    process = subprocess.Popen(command)
    try:
        wait_until((server.root / "run/gateway.pid").exists)
        yield Federation(folder, server, superlink, port)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        superlink.shutdown()
        superlink.server_close()
