"""Who gets through the gateway, and to what: the real nginx, real certificates, and a stub in the superlink's place."""

import base64
import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from enrolment import make_server, make_site

from medseg_client.joining import accept, read_kit_file
from medseg_client.site_folder import SiteFolder
from medseg_core.files import write_atomic
from medseg_core.supervision import free_ports, nginx
from medseg_core.wire.enrolment import GATEWAY_NAME
from medseg_server import certificates
from medseg_server.enrolling import enrol, open_authority
from medseg_server.flower_control import FlowerControl
from medseg_server.gateway import reload_gateway, write_admission, write_gateway
from medseg_server.membership import renew, renew_servers, revoke
from medseg_server.server_folder import ServerFolder
from medseg_server.services import Steward

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="coordinators run on Linux"),
]
FLEET = (
    *("activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages"),
    *("get-run", "get-fab", "push-object", "pull-object", "confirm-message-received"),
)
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


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for(caller: Caller, status: int) -> None:
    """A reload has come through: the workers of before take no more connections."""
    wait_until(lambda: all(caller.status("POST", PULL) == status for _ in range(5)))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("gateway")
    port, inner = free_ports(2)
    server = make_server(folder / "server", address=f"127.0.0.1:{port}", superlink_port=inner)
    superlink = Superlink(server)
    threading.Thread(target=superlink.serve_forever, daemon=True).start()
    (server.root / "logs").mkdir()
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


@pytest.fixture(scope="module")
def north(federation: Federation) -> Caller:
    caller = federation.caller("north")
    federation.let_in()
    wait_for(caller, 200)
    return caller


@pytest.fixture(scope="module")
def south(federation: Federation, north: Caller) -> Caller:
    caller = federation.caller("south")
    federation.let_in()
    wait_for(caller, 200)
    return caller


def refused(federation: Federation, call: Callable[[], int], status: int, reason: str) -> None:
    """A call does not reach the superlink, and the log says why."""
    reached, logged = len(federation.superlink.reached), len(federation.log())
    assert (call(), federation.superlink.reached[reached:]) == (status, [])
    wait_until(lambda: reason in federation.log()[logged:])


@pytest.mark.parametrize("path", [f"/v1/fleet/{name}" for name in FLEET])
def test_a_site_reaches_every_path_of_the_fleet(federation: Federation, north: Caller, path: str) -> None:
    assert north.status("POST", path) == 200
    assert federation.superlink.reached[-1] == f"POST {path}"


def test_a_site_may_ask_whether_the_coordinator_is_well(federation: Federation, north: Caller) -> None:
    assert north.status("GET", "/health") == 200


def test_the_largest_of_flowers_pieces_passes_and_signatures_are_not_logged(
    federation: Federation, north: Caller
) -> None:
    assert north.status("POST", "/v1/fleet/push-object", body=bytes(5_243_844)) == 200
    assert federation.superlink.headers[-1]["flwr-public-key"] == north.node_key
    for text in (federation.log(), federation.log("error")):
        assert "c2VjcmV0" not in text
        assert north.node_key not in text


def test_what_would_prove_a_process_of_the_coordinator_is_taken_from_requests(
    federation: Federation, north: Caller
) -> None:
    with north.connect() as connection:
        head = north.head("POST", PULL).removesuffix(b"\r\n")
        connection.sendall(head + b"flwr-task-token: x\r\nflwr-superexec-signature: y\r\n\r\n")
        assert status_in(connection) == 200
    passed = {name.lower() for name in federation.superlink.headers[-1]}
    assert passed.isdisjoint({"flwr-task-token", "flwr-superexec-signature"})


@pytest.mark.parametrize("path", [PULL, "/health", "/v1/control/list-runs"])
def test_without_a_certificate_nothing_is_reached(federation: Federation, north: Caller, path: str) -> None:
    nobody = Caller(north.port, north.authority, None, None, north.node_key)
    method = "GET" if path == "/health" else "POST"
    refused(federation, lambda: nobody.status(method, path), 401, "verified=NONE")


def test_a_certificate_of_a_foreign_authority_is_refused(federation: Federation, north: Caller) -> None:
    foreign = make_server(federation.folder / "foreign")  # of the same name, as a forger would choose
    site, request = make_site(federation.folder / "stranger", "north")
    accept(site, enrol(foreign, request))
    caller = federation.of(site.root, request.node_key)
    for node_key in (None, north.node_key):
        call = lambda key=node_key: caller.status("POST", PULL, node_key=key)  # noqa: E731
        refused(federation, call, 401, "refused-certificate")


def test_an_expired_certificate_is_refused(
    federation: Federation, north: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as past:
        past.setattr(certificates, "_BEFORE", 2 * certificates.dt.timedelta(days=1))
        past.setattr(certificates, "CERTIFICATE_DAYS", -1)
        late = federation.caller("late")
    federation.let_in()
    refused(federation, lambda: late.status("POST", PULL), 401, "certificate has expired")


def test_a_revoked_site_is_shut_out_also_on_a_connection_that_was_open(
    federation: Federation, north: Caller
) -> None:
    gone = federation.caller("gone")
    renew(federation.server, "gone")
    wait_for(gone, 200)
    with gone.connect() as open_before:
        open_before.sendall(gone.head("POST", PULL))
        assert status_in(open_before) == 200

        revoke(federation.server, "gone")

        wait_for(gone, 401)
        reached = len(federation.superlink.reached)
        with contextlib.suppress(OSError):
            open_before.sendall(gone.head("POST", PULL))
        assert status_in(open_before) in (0, 401)
        assert federation.superlink.reached[reached:] == []
    refused(federation, lambda: gone.status("GET", "/health"), 401, "certificate revoked")
    assert north.status("POST", PULL) == 200


def test_a_node_that_nobody_enrolled_is_refused(federation: Federation, north: Caller) -> None:
    _, request = make_site(federation.folder / "unknown", "unknown")
    unknown = federation.of(federation.folder / "unknown", request.node_key).node_key
    for key in (unknown, "", "nonsense"):
        call = lambda key=key: north.status("POST", PULL, node_key=key)  # noqa: E731
        refused(federation, call, 401, "node-key-of-no-site-or-another")


def test_a_site_behind_the_certificate_of_another_is_refused(
    federation: Federation, north: Caller, south: Caller
) -> None:
    reason = "node-key-of-no-site-or-another"
    refused(federation, lambda: north.status("POST", PULL, node_key=south.node_key), 401, reason)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/control/register-node"),
        ("POST", "/v1/runtime/push-app-message"),
        ("POST", "/v1/fleet/register-node"),
        ("POST", "/v1/fleet/unregister-node"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
        ("POST", "/flwr.proto.Control/StartRun"),
        ("GET", PULL),
        ("PUT", PULL),
        ("DELETE", "/v1/fleet/push-object"),
        ("POST", "/health"),
        ("POST", "/v1/fleet/pull-messages/"),
        ("POST", "/v1/fleet/pull-messages/x"),
        ("POST", "/v1/fleet/pull-messagesx"),
        ("POST", "/v1/fleet/../control/start-run"),
        ("POST", "/v1/fleet/pull-messages/../../control/start-run"),
        ("POST", "/v1/fleet/%2e%2e/control/start-run"),
        ("POST", "/v1/fleet/..%2fcontrol/start-run"),
        ("POST", "//v1/control/start-run"),
        ("POST", "/v1//control//start-run"),
        ("POST", "/V1/FLEET/pull-messages"),
        ("GET", "/health/../docs"),
        ("GET", "/health/"),
        ("POST", "//v1/fleet/pull-messages"),
        ("POST", "/v1/fleet/./pull-messages"),
        ("POST", "/v1/fleet/%70ull-messages"),
        ("POST", "/v1/control/../fleet/pull-messages"),
        ("POST", "/v1/fleet/pull-messages?x=/v1/control/start-run"),
        ("POST", "/v1/control/start-run%3f/../../fleet/pull-messages"),
        ("POST", "/v1/control/start-run#/../../fleet/pull-messages"),
        ("GET", "/%68ealth"),
    ],
)
def test_paths_and_methods_that_are_not_the_fleets_are_refused(
    federation: Federation, north: Caller, method: str, path: str
) -> None:
    refused(federation, lambda: north.status(method, path), 403, "path-or-method")


@pytest.mark.parametrize(
    ("path", "size"), [(PULL, 70_000), ("/v1/fleet/push-object", 9_000_000), ("/health", 70_000)]
)
def test_a_body_that_is_too_large_is_refused(
    federation: Federation, north: Caller, path: str, size: int
) -> None:
    method = "GET" if path == "/health" else "POST"
    refused(federation, lambda: north.status(method, path, body=bytes(size)), 413, "too-large")


def test_who_asks_too_often_waits_and_nobody_else_does(
    federation: Federation, north: Caller, south: Caller
) -> None:
    received = b""
    with north.connect() as connection:
        connection.sendall(b"".join([north.head("POST", PULL)] * 600))
        end = time.monotonic() + PATIENCE_S
        while received.count(b"HTTP/1.1 ") < 600 and time.monotonic() < end:
            received += connection.recv(65536)
        assert south.status("POST", PULL) == 200
    assert received.count(b"HTTP/1.1 200") >= 200
    assert received.count(b"HTTP/1.1 503") > 100
    assert "too-often" in federation.log()


def test_who_holds_too_many_requests_open_is_refused_more(
    federation: Federation, south: Caller, north: Caller
) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            connection = stack.enter_context(south.connect())
            connection.sendall(south.head("POST", "/v1/fleet/push-object", 1000))  # and no body
        wait_for(south, 503)
        assert north.status("POST", PULL) == 200


def test_nobody_comes_in_with_a_list_of_revocations_that_has_expired_until_the_steward_signs_it_anew(
    federation: Federation, north: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = federation.server
    with monkeypatch.context() as past:
        past.setattr(certificates, "_BEFORE", 2 * certificates.dt.timedelta(days=1))
        past.setattr(certificates, "REVOCATIONS_DAYS", -1)
        write_atomic(server.authority("crl"), certificates.revocations(open_authority(server), []))
    reload_gateway(server)
    wait_for(north, 401)
    refused(federation, lambda: north.status("POST", PULL), 401, "CRL has expired")

    control = FlowerControl(server)
    control.prepare()
    monkeypatch.setattr(control, "_call", lambda *words: {"nodes": [], "node-id": 1})
    Steward(server, control, lambda name, state: None, lambda name: None).look()

    wait_for(north, 200)


def test_a_renewed_certificate_comes_in_beside_the_one_before_and_so_does_that_of_the_gateway(
    federation: Federation, south: Caller
) -> None:
    server, site = federation.server, federation.folder / "south"
    older = federation.folder / "older.crt"
    shutil.copy(site / "pki/site.crt", older)
    renew(server, "south")
    accept(SiteFolder(site), read_kit_file(server.kit("south")))
    renew_servers(server)
    reload_gateway(server)
    wait_for(south, 200)
    before = Caller(south.port, south.authority, older, south.key, south.node_key)
    assert before.status("POST", PULL) == 200
    assert (site / "pki/site.crt").read_bytes() != older.read_bytes()
