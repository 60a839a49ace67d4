"""Who gets through the gateway, and to what: the real nginx, real certificates, and a stub in the superlink's place."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from enrolment import make_server, make_site
from real_gateway import (
    PATIENCE_S,
    PULL,
    Caller,
    Federation,
    running_gateway,
    status_in,
    wait_for,
    wait_until,
)

from medseg_client.joining import accept, read_kit_file
from medseg_client.site_folder import SiteFolder
from medseg_core.files import write_atomic
from medseg_server import certificates
from medseg_server.enrolling import enrol, open_authority
from medseg_server.flower_control import FlowerControl
from medseg_server.gateway import reload_gateway
from medseg_server.membership import renew, renew_servers, revoke
from medseg_server.services import Steward

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="coordinators run on Linux"),
]
FLEET = (
    *("activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages"),
    *("get-run", "get-fab", "push-object", "pull-object", "confirm-message-received"),
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with running_gateway(tmp_path_factory.mktemp("gateway")) as federation:
        yield federation


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
        write_atomic(server.revocations, certificates.revocations(open_authority(server), []))
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
