"""A hospital that reaches the outside through its HTTP proxy alone: a run, a proxy that goes away, a check."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from connect_proxy import ConnectProxy, connect_proxy
from experiments import TINY
from loopback import COORDINATOR, RUN_S, SITES, make_loopback
from real_gateway import Federation, running_gateway, wait_for
from waiting import wait_until

from medseg_client import gateway_check
from medseg_client.findings import Finding, shared_report
from medseg_client.gateway_check import check_gateway
from medseg_client.site_folder import SiteFolder
from medseg_core.supervision import program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="coordinators and hospitals run on Linux"),
]
EXPERIMENT = f"""{TINY}[federation]
rounds = 3
"""
LOGIN, PASSWORD = "radiology:open-sesame", "open-sesame"
BEHIND = SITES[1]
AWAY_S = 15.0
TLS_HANDSHAKE = b"\x16\x03\x01"


def name_proxy(settings: Path, url: str) -> None:
    """upstream_proxy in a site.toml, instead of any that it names."""
    lines = settings.read_text().splitlines()
    (at,) = [n for n, line in enumerate(lines) if line.lstrip("# ").startswith("upstream_proxy =")]
    lines[at] = f'upstream_proxy = "{url}"'
    settings.write_text("\n".join(lines) + "\n")


def write_login(site: SiteFolder, login: str) -> None:
    site.proxy_login.write_text(login)
    site.proxy_login.chmod(0o600)


def shown_of(folder: Path) -> str:
    """Command lines and environments of all processes, and the logs of a hospital."""
    found = [path.read_text() for path in folder.rglob("*.log")]
    for process in psutil.process_iter():
        try:
            found += [*process.cmdline(), *process.environ().values()]
        except (psutil.Error, OSError):
            continue
    return "\n".join(found)


def test_a_run_goes_through_the_proxy_which_may_go_away_and_learns_the_address_alone(tmp_path: Path) -> None:
    federation = make_loopback(tmp_path, EXPERIMENT, cases=4)
    site = SiteFolder(tmp_path / BEHIND)
    with connect_proxy(LOGIN) as proxy:
        name_proxy(site.root / "site.toml", f"http://127.0.0.1:{proxy.port}")
        write_login(site, LOGIN)
        with federation.kept_up():
            run = subprocess.Popen(
                [program("medseg-server"), "run", COORDINATOR, "experiment.toml"], cwd=tmp_path
            )
            wait_until(lambda: any(e["event"] == "round_finished" for e in federation.events))
            shown = shown_of(site.root)
            proxy.is_away = True
            time.sleep(AWAY_S)
            proxy.is_away = False
            assert run.wait(RUN_S) == 0
            rounds = [e for e in federation.events if e["event"] == "round_finished"]
        assert [sorted(e["contributed"]) for e in rounds] == [sorted(SITES)] * 3
        assert federation.weights(federation.run) == federation.weights(federation.simulated())
        assert {head.split("\r\n")[0] for head in proxy.asked} == {f"CONNECT {site.kit.address} HTTP/1.1"}
        assert len(proxy.asked) > 2
        assert set(proxy.first_bytes) == {TLS_HANDSHAKE}  # from end to end: the proxy has no key
    assert "tunnel" in shown
    assert PASSWORD not in shown


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with running_gateway(tmp_path_factory.mktemp("proxy")) as federation:
        yield federation


@pytest.fixture(scope="module")
def north(federation: Federation) -> SiteFolder:
    caller = federation.caller("north")
    federation.let_in()
    wait_for(caller, 200)
    return SiteFolder(federation.folder / "north")


@pytest.fixture
def proxy(north: SiteFolder) -> Iterator[ConnectProxy]:
    """A proxy that asks for a login, which the site has."""
    with connect_proxy(LOGIN) as proxy:
        name_proxy(north.root / "site.toml", f"http://127.0.0.1:{proxy.port}")
        write_login(north, LOGIN)
        yield proxy


def findings(site: SiteFolder) -> dict[str, Finding]:
    return {finding.topic: finding for finding in check_gateway(site)}


def test_a_check_goes_the_way_through_the_proxy_to_the_gateway(
    north: SiteFolder, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # is not read
    found = findings(north)
    assert {finding.state for finding in found.values()} == {"ok"}, found
    assert found["registration"].text == "the gateway knows this site"
    assert PASSWORD not in str(shared_report(list(found.values())))


@pytest.mark.parametrize(
    ("mood", "login", "text", "remedy"),
    [
        ("well", "radiology:wrong", "does not accept the login", "proxy.login"),
        ("forbidding", LOGIN, "does not allow a tunnel to", "network team"),
        ("no proxy", LOGIN, "does not answer as an HTTP proxy", "upstream_proxy"),
        ("hanging up", LOGIN, "does not answer as an HTTP proxy", "upstream_proxy"),
        ("silent", LOGIN, "does not answer within", "network team"),
    ],
)
def test_a_check_names_what_the_proxy_refuses(
    north: SiteFolder,
    proxy: ConnectProxy,
    monkeypatch: pytest.MonkeyPatch,
    *,
    mood: str,
    login: str,
    text: str,
    remedy: str,
) -> None:
    monkeypatch.setattr(gateway_check, "PATIENCE_S", 1.0)
    proxy.mood = mood  # type: ignore[assignment]
    write_login(north, login)
    found = findings(north)
    assert (found["proxy"].state, text in found["proxy"].text) == ("fault", True), found["proxy"]
    assert remedy in found["proxy"].remedy
    assert "registration" not in found


def test_a_check_names_a_proxy_that_is_not_there(north: SiteFolder, proxy: ConnectProxy) -> None:
    name_proxy(north.root / "site.toml", "http://127.0.0.1:1")
    found = findings(north)["proxy"]
    assert found.state == "fault"
    assert "cannot be reached" in found.text
    name_proxy(north.root / "site.toml", "http://no-such-proxy.invalid:3128")
    assert "cannot be reached" in findings(north)["proxy"].text


def test_a_check_says_that_a_login_is_open_to_others(north: SiteFolder, proxy: ConnectProxy) -> None:
    north.proxy_login.chmod(0o640)
    found = findings(north)["proxy"]
    assert (found.state, "chmod 600" in found.detail) == ("fault", True)


def test_a_check_says_what_to_write_on_a_machine_that_is_set_up_for_a_proxy(
    federation: Federation, north: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = north.root / "site.toml"
    lines = [line for line in settings.read_text().splitlines() if not line.startswith("upstream_proxy")]
    settings.write_text("\n".join(lines) + "\n")
    for name in gateway_check._PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(os.environ, "https_proxy", f"http://{LOGIN}@proxy.hospital.example:3128/")
    found = findings(north)["proxy"]
    assert found.detail == 'upstream_proxy = "http://proxy.hospital.example:3128"'
    assert PASSWORD not in str(found)
