"""The page of `medseg-site review` is for whoever holds the printed address, on this machine, and for nobody else."""

import re
import socket

import pytest
from reviewing import material_of, served, write_cohort

from medseg_client.review.server import ReviewServer
from medseg_core.review_errors import PortInUseError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def site(folder):
    with served(material_of(folder)) as site:
        yield site


def test_the_server_waits_on_loopback_alone(site):
    assert site.server.server_address[0] == "127.0.0.1"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}", site.told[0])


def test_an_address_opens_the_page_once_and_another_is_told(site):
    first = "/" + site.told[0].rsplit("/", 1)[1]

    page = site.enter()
    again = site.ask(first)

    assert site.ask(page).status == 200
    assert (again.status, len(site.told)) == (410, 2)
    assert b"The terminal shows the next one" in again.body
    assert site.enter() == page


@pytest.mark.parametrize(
    "path", ["/", "/cases.json", "/review.js", "/x/", "/x/cases.json", "//", "/%00", "*"]
)
def test_without_the_address_there_is_nothing(site, path):
    reply = site.ask(path)

    assert (reply.status, reply.body) == (404, b"There is nothing here.\n")


def test_the_token_does_not_open_what_the_page_opens(site):
    token = site.told[0].rsplit("/", 1)[1]

    assert site.ask(f"/{token}/cases.json").status == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""])
def test_another_host_name_is_refused_even_with_the_address(site, host):
    page = site.enter()

    reply = site.ask(f"{page}cases.json", Host=host.format(port=site.server.server_port))

    assert reply.status == 421
    assert b"site" not in reply.body


def test_localhost_is_a_name_of_this_machine(site):
    assert site.ask(site.enter(), Host=f"localhost:{site.server.server_port}").status == 200


def test_a_request_that_names_two_hosts_is_refused(site):
    page, port = site.enter(), site.server.server_port
    lines = f"GET {page} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
        line.sendall(lines.encode())
        assert line.recv(100).startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "BREW"])
def test_nothing_but_get_is_answered(site, method):
    reply = site.ask(f"{site.enter()}cases.json", method=method)

    assert (reply.status, reply.headers["Allow"], reply.headers["Connection"]) == (405, "GET", "close")


@pytest.mark.parametrize("path", ["", "cases.json", "case/a/image.json", "review.js", "nothing"])
def test_every_answer_forbids_caching_framing_and_outside_resources(site, path):
    headers = site.ask(site.enter() + path).headers

    policy = headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Set-Cookie" not in headers
    assert headers["Server"] == "medseg"


@pytest.mark.parametrize(
    "path",
    [
        "../manifest.csv",
        "case/../../manifest.csv",
        "case/a/../../../manifest.csv",
        "case/a/..%2f..%2fmanifest.csv",
        "case/%61/image.json",
        "case//image.json",
        "case/a_ct/image.json",
        "case/nobody/image.json",
        "review.html.j2",
        "server.py",
        "./review.js",
        "case/a/axial/0/../../image.json",
        "/etc/passwd",
    ],
)
def test_paths_lead_nowhere_but_to_the_listed_cases(site, path):
    assert site.ask(site.enter() + path).status == 404


def test_the_page_asks_for_nothing_from_elsewhere(site):
    page = site.enter()
    names = re.findall(r'(?:href|src)="([^"]+)"', site.ask(page).body.decode())

    kinds = {name: site.ask(page + name).headers["Content-Type"].split(";")[0] for name in names}

    assert kinds == {
        "review.svg": "image/svg+xml",
        "review.css": "text/css",
        "drawing.js": "text/javascript",
        "view.js": "text/javascript",
        "review.js": "text/javascript",
    }
    for name in names:
        assert re.findall(rb"https?://(?!www\.w3\.org/2000/svg)", site.ask(page + name).body) == []


def test_a_line_that_is_too_long_is_refused_and_the_server_goes_on(site):
    page = site.enter()

    assert site.ask("/" + "x" * 70_000).status == 414
    assert site.ask(page).status == 200


def test_a_port_that_is_taken_is_told_with_its_remedy(site):
    with pytest.raises(PortInUseError, match=r"--port \d+: .* Leave --port away for a free one\."):
        ReviewServer(site.server.server_port, lambda path: None)


def test_a_port_beyond_those_that_there_are_is_told(site):
    with pytest.raises(PortInUseError, match="ports go from 0 to 65535"):
        ReviewServer(70_000, lambda path: None)


def test_nothing_is_logged_of_what_is_asked(site, capfd):
    site.ask(site.enter())
    site.ask("/nothing")

    assert capfd.readouterr() == ("", "")
