"""The gateway: nginx in front of Flower's superlink. What is written for it, and when it reads it again."""

import base64
import datetime as dt
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from medseg_core.federation_errors import RosterError
from medseg_core.files import write_atomic
from medseg_core.reloading import addresses, content
from medseg_core.supervision import reload_nginx
from medseg_server.certificates import REVOCATIONS_DAYS, revocations
from medseg_server.enrolling import open_authority
from medseg_server.server_folder import ServerFolder


def write_gateway(folder: ServerFolder) -> Path:
    """nginx's configuration, with who may come in; returns its path."""
    settings, root = folder.settings, str(folder.root.absolute())
    text = (resources.files("medseg_server") / "gateway.conf").read_text()
    listen = settings.listen or f"0.0.0.0:{settings.address.rsplit(':', 1)[1]}"
    superlink = f"{settings.superlink_host}:{settings.superlink_port}"
    for name, value in (("root", root), ("listen", listen), ("superlink", superlink)):
        text = text.replace(f"@{name}@", value)
    path = folder.for_gateway("gateway.conf")
    write_atomic(folder.for_gateway("authority.crt"), folder.authority("crt").read_bytes())
    write_admission(folder)
    write_atomic(path, text.encode())
    return path


def write_admission(folder: ServerFolder) -> None:
    """Which certificate may speak for which node key, and which certificates are revoked. Raises RosterError."""
    entries = folder.roster().values()
    try:
        lines = [_binding(c.serial, e.node_key) for e in entries for c in e.valid_certificates]
    except (ValueError, UnsupportedAlgorithm):  # somebody edited a key
        raise RosterError(folder.root / "roster.json") from None
    write_atomic(folder.for_gateway("bindings"), "".join(lines).encode())
    revoked = [int(c.serial) for e in entries for c in e.certificates if c.status == "revoked"]
    write_atomic(folder.revocations, revocations(open_authority(folder), revoked))


def revocations_end_soon(folder: ServerFolder) -> bool:
    """Whether the list of revoked certificates should be signed anew: half its time is over, or it cannot be read."""
    return _revocations_end_within(folder, dt.timedelta(days=REVOCATIONS_DAYS / 2))


def revocations_have_ended(folder: ServerFolder) -> bool:
    """Whether the gateway lets nobody in, because the list of revoked certificates is too old or cannot be read."""
    return _revocations_end_within(folder, dt.timedelta(0))


def _revocations_end_within(folder: ServerFolder, time: dt.timedelta) -> bool:
    try:
        end = x509.load_pem_x509_crl(folder.revocations.read_bytes()).next_update_utc
    except (OSError, ValueError):
        return True
    return end is None or end - dt.datetime.now(dt.UTC) < time


@dataclass(frozen=True)
class GatewayAddresses:
    """HOST:PORT where the gateway listens, and where it finds the superlink."""

    listen: str
    superlink: str


def addresses_in_use(folder: ServerFolder) -> GatewayAddresses | None:
    """As the gateway's configuration has them: a gateway needs no server.toml. None: before it is written."""
    text = (content(folder.for_gateway("gateway.conf")) or b"").decode()
    listen, superlink = (
        re.search(r"listen (\S+) ssl;", text),
        re.search(r"upstream superlink { server (\S+);", text),
    )
    return GatewayAddresses(listen.group(1), superlink.group(1)) if listen and superlink else None


def what_it_reads(folder: ServerFolder) -> list[object]:
    """All that a running gateway goes by: its files, and where the superlink is."""
    files = ("gateway.conf", "bindings", "gateway.crt", "gateway.key", "authority.crt", "authority.crl")
    found = addresses_in_use(folder)
    host = found.superlink.rsplit(":", 1)[0] if found else "localhost"
    return [*(content(folder.for_gateway(name)) for name in files), addresses(host)]


def reload_gateway(folder: ServerFolder) -> None:
    """Have a running nginx read again who may come in."""
    reload_nginx(folder.root / "run" / "gateway.pid")


def _binding(serial: str, node_key: str) -> str:
    """A line of nginx's map: `SERIAL:BASE64(PEM of the node's public key)` is let in."""
    digits = f"{int(serial):X}"
    digits = digits.rjust(len(digits) + len(digits) % 2, "0")
    key = serialization.load_ssh_public_key(node_key.encode())
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f'"{digits}:{base64.b64encode(pem).decode()}" 1;\n'
