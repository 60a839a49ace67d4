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

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from medseg_client.findings import Finding, fault, ok, warning
from medseg_client.site_folder import SiteFolder
from medseg_core.federation_errors import EnrolmentError, NotJoinedError
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
    yield _proxy(kit)
    resolved = _name(kit)
    yield resolved
    if resolved.state == "fault":
        return
    reached = _ask(folder, kit, _node_key(folder))
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
    reached = _ask(folder, folder.kit, node_key="")
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


def _proxy(kit: SiteKit) -> Finding:
    """The way out is direct, which a machine that is set up for a proxy may not have."""
    if any(os.environ.get(name) for name in _PROXIES):
        text = "this machine is set up for an HTTP proxy, which medseg does not use"
        return warning("proxy", text, f"Have the firewall allow {kit.address} directly from here.")
    return ok("proxy", "none: the way out is direct")


def _name(kit: SiteKit) -> Finding:
    host, port = kit.address.rsplit(":", 1)
    try:
        socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        remedy = "Ask your network team to let this machine resolve it, or the coordinator for its address."
        return fault("name", f"{host} cannot be resolved", remedy)
    return ok("name", f"{host} is known")


def _ask(folder: SiteFolder, kit: SiteKit, node_key: str) -> _Answer | Finding:
    """The gateway's answer over mutual TLS, or why there is none."""
    host, port = kit.address.rsplit(":", 1)
    allow = f"Have the firewall allow TCP to {kit.address} from here; ask the coordinator whether it is up."
    try:
        context = ssl.create_default_context(cadata=kit.authority)
        context.load_cert_chain(folder.root / "pki" / "site.crt", folder.key("tls"))
        plain = socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S)
    except TimeoutError:
        return fault("way", f"{kit.address} does not answer within {PATIENCE_S:.0f} s", allow)
    except ssl.SSLError:
        return fault(
            "way", "the keys of this site cannot be read", "Take the kit again: medseg-site join DIR KIT."
        )
    except OSError as error:
        return fault("way", f"{kit.address} cannot be reached ({error.strerror or 'refused'})", allow)
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


def _exchange(connection: ssl.SSLSocket, node_key: str) -> _Answer:
    """GET /health with a node key. Raises OSError, ValueError."""
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
