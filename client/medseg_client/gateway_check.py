"""Whether the coordinator can be reached and lets this site in: name, way, certificates, clock, registration."""

import base64
import datetime as dt
import os
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from medseg_client.findings import Finding, fault, ok, warning
from medseg_client.site_folder import SiteFolder
from medseg_client.upstream_proxy import open_tunnel, proxy_of
from medseg_core.errors import MedsegError
from medseg_core.federation_errors import (
    EnrolmentError,
    LoginFileError,
    NotJoinedError,
    ProxyRefusedError,
)
from medseg_core.wire.enrolment import GATEWAY_NAME, SiteKit

PATIENCE_S = 10.0
EXPIRY_DAYS = 30  # time for a new certificate to travel by letter
AHEAD_S, BEHIND_S = 5.0, 300.0  # Flower refuses signatures that are dated beyond
CLOCK_GOOD_S = 3.0  # the answer's date is in whole seconds, and the way takes a while
ANSWER_BYTES_MAX = 64 * 1024
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@dataclass(frozen=True)
class _Answer:
    """Of the gateway to GET /health."""

    status: int
    headers: dict[str, str]  # names in lower case
    seconds_ahead: float | None  # our clock against its own
    expires_at: dt.datetime  # the gateway's certificate


def check_gateway(folder: SiteFolder) -> Iterator[Finding]:
    """One finding a hurdle, up to the first that cannot be taken."""
    try:
        kit = folder.kit
    except (NotJoinedError, EnrolmentError):
        yield fault(
            "federation",
            "this site has not joined one",
            "Take the coordinator's kit: medseg-site join DIR KIT.",
        )
        return
    yield _own_certificate(kit)
    for step in (_proxy(folder, kit), _name(folder, kit)):
        yield step
        if step.state == "fault":
            return
    reached = _ask(folder, kit)
    if isinstance(reached, Finding):
        yield reached
        return
    yield _lasting(
        "gateway's certificate", reached.expires_at, "Tell the coordinator: medseg-server renew DIR."
    )
    yield _clock(reached)
    yield _registration(reached)


def way_fault(folder: SiteFolder) -> str | None:
    """Why this site's certificate does not get through to the superlink; None if it does. No node key is needed.

    Raises NotJoinedError.
    """
    reached = _ask(folder, folder.kit, with_node_key=False)
    if isinstance(reached, Finding):
        return f"{reached.text}. {reached.remedy}"
    if reached.status != 200:
        finding = _registration(reached)
        return f"{finding.text}. {finding.remedy}"
    return None


def _own_certificate(kit: SiteKit) -> Finding:
    end = x509.load_pem_x509_certificate(kit.certificate.encode()).not_valid_after_utc
    remedy = f"Ask the coordinator for a new kit: medseg-server renew DIR {kit.site}."
    return _lasting("own certificate", end, remedy)


def _lasting(topic: str, end: dt.datetime, remedy: str) -> Finding:
    """How long a certificate is good."""
    left = end - dt.datetime.now(dt.UTC)
    if left < dt.timedelta(0):
        return fault(topic, f"expired on {end:%Y-%m-%d}", remedy)
    if left < dt.timedelta(days=EXPIRY_DAYS):
        return warning(topic, f"expires on {end:%Y-%m-%d}, in {left.days} days", remedy)
    return ok(topic, f"good until {end:%Y-%m-%d}")


def _proxy(folder: SiteFolder, kit: SiteKit) -> Finding:
    """The way out is direct, or through the proxy that site.toml names, which is asked for a tunnel."""
    topic = "proxy"
    if folder.settings.upstream_proxy is None:
        return _no_proxy(kit)
    try:
        proxy = proxy_of(folder)
        assert proxy is not None
        open_tunnel(proxy, kit.address, timeout_s=PATIENCE_S).close()
    except LoginFileError as error:
        return fault(topic, "the login for the proxy cannot be used", "", detail=str(error))
    except ProxyRefusedError as error:
        return fault(topic, f"the proxy {error.fault}", error.remedy)
    except TimeoutError:
        text = f"the proxy does not answer within {PATIENCE_S:.0f} s"
        return fault(topic, text, "Ask your network team whether it is well.")
    except OSError as error:
        text = f"the proxy cannot be reached ({error.strerror or 'broken off'})"
        return fault(topic, text, "Correct upstream_proxy in site.toml, or ask your network team.")
    return ok(topic, "it opens a tunnel to the coordinator")


def _no_proxy(kit: SiteKit) -> Finding:
    """A machine that is set up for a proxy may reach nothing without it."""
    found = next((value for name in _PROXIES if (value := os.environ.get(name))), None)
    if found is None:
        return ok("proxy", "none: the way out is direct")
    parts = urlsplit(found if "//" in found else f"//{found}")
    where = f"http://{parts.netloc.rpartition('@')[2]}"  # a login stays where it is
    return Finding(
        "proxy",
        "warning",
        "this machine is set up for an HTTP proxy, which medseg does not use",
        f"Have the firewall allow {kit.address} directly from here, or name the proxy in site.toml.",
        f'upstream_proxy = "{where}"',
    )


def _name(folder: SiteFolder, kit: SiteKit) -> Finding:
    host, port = kit.address.rsplit(":", 1)
    if folder.settings.upstream_proxy is not None:
        return ok("name", "the proxy looks it up")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        remedy = "Ask your network team to let this machine resolve it, or the coordinator for its address."
        return fault("name", f"{host} cannot be resolved", remedy)
    return ok("name", f"{host} is known")


def _ask(folder: SiteFolder, kit: SiteKit, *, with_node_key: bool = True) -> _Answer | Finding:
    """The gateway's answer over mutual TLS, or why there is none."""
    allow = f"Have the firewall allow TCP to {kit.address} from here; ask the coordinator whether it is up."
    try:
        context = ssl.create_default_context(cadata=kit.authority)
        context.load_cert_chain(folder.root / "pki" / "site.crt", folder.key("tls"))
        node_key = _node_key(folder) if with_node_key else ""
    except PermissionError:
        text = "this account may not read the keys that the way there needs"
        return fault("way", text, "Run `medseg-site check` as root.")
    except (ssl.SSLError, OSError, ValueError):
        return fault(
            "way", "the keys of this site cannot be read", "Take the kit again: medseg-site join DIR KIT."
        )
    try:
        plain = _connect(folder, kit)
    except TimeoutError:
        return fault("way", f"{kit.address} does not answer within {PATIENCE_S:.0f} s", allow)
    except (OSError, MedsegError) as error:
        reason = getattr(error, "strerror", None) or "refused"
        return fault("way", f"{kit.address} cannot be reached ({reason})", allow)
    try:
        with plain, context.wrap_socket(plain, server_hostname=GATEWAY_NAME) as connection:
            return _exchange(connection, node_key)
    except ssl.SSLCertVerificationError as error:
        return fault(
            "TLS",
            f"who answers is not this federation's gateway ({error.verify_message})",
            f"If your network opens TLS, exempt {kit.address}; else ask the coordinator.",
        )
    except (OSError, ValueError):
        return fault("TLS", "the connection broke off", allow)


def _connect(folder: SiteFolder, kit: SiteKit) -> socket.socket:
    """A connection to the gateway, the way that site.toml says. Raises OSError, MedsegError."""
    if (proxy := proxy_of(folder)) is not None:
        return open_tunnel(proxy, kit.address, timeout_s=PATIENCE_S)
    host, port = kit.address.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S)


def _exchange(connection: ssl.SSLSocket, node_key: str) -> _Answer:
    """GET /health with this site's node key. Raises OSError, ValueError."""
    certificate = connection.getpeercert(binary_form=True)
    asked = time.time()
    words = (
        "GET /health HTTP/1.1",
        "Host: gateway",
        f"flwr-public-key: {node_key}",
        "Connection: close",
    )
    connection.sendall(("\r\n".join(words) + "\r\n\r\n").encode())
    received = b""
    while b"\r\n\r\n" not in received and len(received) < ANSWER_BYTES_MAX:
        if not (data := connection.recv(4096)):
            break
        received += data
    middle = (asked + time.time()) / 2
    first, *lines = received.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    date = parsedate_to_datetime(headers["date"]) if "date" in headers else None
    return _Answer(
        int(first.split()[1]) if first.count(" ") else 0,
        headers,
        None if date is None else middle - date.timestamp() - 0.5,  # dates are cut to whole seconds
        x509.load_der_x509_certificate(certificate or b"").not_valid_after_utc,
    )


def _node_key(folder: SiteFolder) -> str:
    """The public half, as Flower sends it."""
    key = serialization.load_ssh_private_key(folder.key("node").read_bytes(), None).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(pem).decode()


def _clock(answer: _Answer) -> Finding:
    remedy = "Set this machine's clock by NTP."
    ahead = answer.seconds_ahead
    if ahead is None:
        return warning("clock", "the gateway does not tell its time", "Ask the coordinator.")
    text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the gateway's"
    if ahead > AHEAD_S or -ahead > BEHIND_S:
        return fault(
            "clock", f"{text}; {AHEAD_S:.0f} s ahead or {BEHIND_S:.0f} s behind are the most", remedy
        )
    return warning("clock", text, remedy) if abs(ahead) > CLOCK_GOOD_S else ok("clock", text)


def _registration(answer: _Answer) -> Finding:
    topic = "registration"
    if answer.status == 401:
        remedy = "Ask the coordinator: medseg-server sites DIR tells; if revoked, start with new keys in a new folder."
        return fault(
            topic, "the gateway refuses this site's certificate: revoked, or of another federation", remedy
        )
    if answer.status in (502, 503, 504):
        return fault(
            topic, "the gateway answers, its superlink does not", "Tell the coordinator: its logs/ tell more."
        )
    if answer.status != 200 or answer.headers.get("medseg-node") != "known":
        remedy = "Send the coordinator the newest request, and take the kit that comes back."
        return fault(topic, "the gateway does not know this node key with this certificate", remedy)
    return ok(topic, "the gateway knows this site")
