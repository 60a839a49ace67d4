"""What passes connections on: bytes as they came, bounded in number and time, also through an HTTP proxy."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from connect_proxy import connect_proxy
from enrolment import make_server, make_site

from medseg_client import forwarding
from medseg_client.bridge import run_bridge
from medseg_client.joining import accept
from medseg_client.site_folder import Role, SiteFolder
from medseg_client.upstream_proxy import open_tunnel, proxy_of, run_tunnel, tunnel_socket
from medseg_core.errors import ExperimentFileError
from medseg_core.federation_errors import LoginFileError, ProxyRefusedError
from medseg_core.supervision import free_ports
from medseg_server.enrolling import enrol

LONG_S = 20.0
LOGIN = "radiology:p:ss wörd"


class Echo:
    """A gateway's stand-in: sends back what comes, on any number of connections."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening, self.connections = listening, list[socket.socket]()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                self.connections.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)
        connection.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Echo(listening)


@pytest.fixture
def site(tmp_path: Path, echo: Echo) -> SiteFolder:
    """A site that joined a federation whose gateway is the echo."""
    port = echo.listening.getsockname()[1]
    server = make_server(tmp_path / "server", address=f"127.0.0.1:{port}")
    site, request = make_site(tmp_path / "north")
    accept(site, enrol(server, request))
    site.run(Role.EGRESS).mkdir(parents=True)
    return site


def name_proxy(site: SiteFolder, url: str, login: str | None = None, mode: int = 0o600) -> None:
    path = site.root / "site.toml"
    path.write_text(path.read_text().replace("# upstream_proxy =", f'upstream_proxy = "{url}"'))
    if login is not None:
        site.proxy_login.write_text(login)
        site.proxy_login.chmod(mode)


@contextmanager
def tunnelling(site: SiteFolder) -> Iterator[Path]:
    """The tunnel of the egress role; yields its socket."""
    stop, place = threading.Event(), tunnel_socket(site)
    thread = threading.Thread(target=run_tunnel, args=(site, stop))
    thread.start()
    try:
        yield place
    finally:
        stop.set()
        thread.join()


def unix_connection(place: Path) -> socket.socket:
    """A connection to a socket that may be about to appear, or be there and not yet listened on."""
    end = time.monotonic() + LONG_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LONG_S)
        try:
            connection.connect(str(place))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            assert time.monotonic() < end
            time.sleep(0.02)
        else:
            return connection


def echoed(connection: socket.socket, data: bytes) -> bytes:
    sending = threading.Thread(target=connection.sendall, args=(data,))
    sending.start()
    received = b""
    while len(received) < len(data) and (more := connection.recv(65536)):
        received += more
    sending.join()
    return received


def is_hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("mood", ["well", "talkative"])
def test_bytes_come_through_the_proxy_as_they_were_sent(site: SiteFolder, mood: str) -> None:
    with connect_proxy(LOGIN) as proxy:
        proxy.mood = mood
        name_proxy(site, f"http://127.0.0.1:{proxy.port}", f"{LOGIN}\n")
        with tunnelling(site) as place:
            for _ in range(2):
                with unix_connection(place) as connection:
                    data = os.urandom(3_000_000)
                    assert echoed(connection, data) == data
    assert [head.split("\r\n")[0] for head in proxy.asked] == [f"CONNECT {site.kit.address} HTTP/1.1"] * 2


@pytest.mark.parametrize("mood", ["forbidding", "no proxy", "hanging up"])
def test_who_cannot_be_passed_on_is_hung_up_on_and_the_log_says_why_once(
    site: SiteFolder, mood: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with connect_proxy() as proxy:
        proxy.mood = mood
        name_proxy(site, f"http://127.0.0.1:{proxy.port}")
        with tunnelling(site) as place:
            for _ in range(3):
                with unix_connection(place) as connection:
                    assert is_hung_up(connection)
            proxy.mood = "well"
            with unix_connection(place) as connection:
                assert echoed(connection, b"again") == b"again"
    told = capfd.readouterr().err.splitlines()
    assert [line for line in told if line not in ("ready", "connected")] == [told[1]]
    assert told[1].startswith("the proxy ")


def test_a_wrong_login_is_told_and_stands_nowhere(
    site: SiteFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    with connect_proxy("other:secret") as proxy:
        name_proxy(site, f"http://127.0.0.1:{proxy.port}", LOGIN)
        found = proxy_of(site)
        assert found is not None
        assert "p:ss" not in repr(found)
        with pytest.raises(ProxyRefusedError, match=r"login \(status 407\)"):
            open_tunnel(found, site.kit.address, timeout_s=LONG_S)
        with tunnelling(site) as place, unix_connection(place) as connection:
            assert is_hung_up(connection)
    told = capfd.readouterr().err
    assert "proxy.login" in told
    assert "p:ss" not in told


def test_a_proxy_that_says_nothing_is_given_up(site: SiteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "CONNECT_S", 0.3)
    with connect_proxy() as proxy:
        proxy.mood = "silent"
        name_proxy(site, f"http://127.0.0.1:{proxy.port}")
        with tunnelling(site) as place, unix_connection(place) as connection:
            assert is_hung_up(connection)
        found = proxy_of(site)
        assert found is not None
        with pytest.raises(TimeoutError):
            open_tunnel(found, site.kit.address, timeout_s=0.3)


def test_connections_are_bounded_and_a_place_that_is_free_again_is_given(
    site: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "CONNECTIONS_MAX", 2)
    with connect_proxy() as proxy:
        name_proxy(site, f"http://127.0.0.1:{proxy.port}")
        with tunnelling(site) as place:
            first, second = unix_connection(place), unix_connection(place)
            assert (echoed(first, b"a"), echoed(second, b"b")) == (b"a", b"b")
            with unix_connection(place) as third:
                assert is_hung_up(third)
            first.close()
            end = time.monotonic() + LONG_S
            while True:
                with unix_connection(place) as fourth:
                    fourth.sendall(b"d")
                    if not is_hung_up(fourth):
                        break
                assert time.monotonic() < end
            second.close()


def test_a_connection_on_which_nothing_is_said_ends(
    site: SiteFolder, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "IDLE_S", 0.3)
    with connect_proxy() as proxy:
        name_proxy(site, f"http://127.0.0.1:{proxy.port}")
        with tunnelling(site) as place, unix_connection(place) as connection:
            assert is_hung_up(connection)


def test_the_end_of_the_far_side_comes_after_its_last_bytes(site: SiteFolder, echo: Echo) -> None:
    with connect_proxy() as proxy:
        name_proxy(site, f"http://127.0.0.1:{proxy.port}")
        with tunnelling(site) as place, unix_connection(place) as connection:
            assert echoed(connection, b"x") == b"x"
            echo.connections[-1].sendall(b"last words")
            echo.connections[-1].shutdown(socket.SHUT_RDWR)
            received = b""
            while more := connection.recv(100):
                received += more
    assert received == b"last words"


def test_the_bridge_leads_to_the_way_outs_socket_and_nowhere_else(site: SiteFolder) -> None:
    stop, (port,) = threading.Event(), free_ports(1)
    path = site.root / "site.toml"
    path.write_text(path.read_text().replace("egress_port = 1", f"egress_port = {port}"))
    site.hop.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(site.hop))
        listening.listen()
        Echo(listening)
        thread = threading.Thread(target=run_bridge, args=(site, stop))
        thread.start()
        try:
            end = time.monotonic() + LONG_S
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    connection = socket.create_connection(("127.0.0.1", port), timeout=LONG_S)
                    break
                assert time.monotonic() < end
            with connection:
                assert echoed(connection, b"x" * 200_000) == b"x" * 200_000
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    ("login", "mode", "said"),
    [
        ("user:password", 0o644, "chmod 600"),
        ("no colon", 0o600, "one line USER:PASSWORD"),
        ("user:pass\r\nX-Injected: 1", 0o600, "one line USER:PASSWORD"),
        ("", 0o600, "one line USER:PASSWORD"),
        ("u:" + "x" * 2000, 0o600, "one line USER:PASSWORD"),
    ],
)
def test_a_login_that_cannot_be_used_is_a_sentence_without_it(
    site: SiteFolder, login: str, mode: int, said: str
) -> None:
    name_proxy(site, "http://proxy:3128", login, mode)
    with pytest.raises(LoginFileError) as caught:
        proxy_of(site)
    assert said in str(caught.value)
    assert "pass\r" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://proxy:3128", "proxy:3128", "http://", "http://p/path", "http://p:x", "http://p"]
)
def test_what_is_no_proxy_is_refused(site: SiteFolder, url: str) -> None:
    name_proxy(site, url)
    with pytest.raises(ExperimentFileError, match="upstream_proxy"):
        _ = site.settings


def test_a_password_in_site_toml_is_refused_and_not_shown(site: SiteFolder) -> None:
    name_proxy(site, "http://radiology:sesame@proxy:3128")
    with pytest.raises(LoginFileError, match=r"proxy.login: USER:PASSWORD belongs here") as caught:
        _ = site.settings
    assert "sesame" not in str(caught.value)
