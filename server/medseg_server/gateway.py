"""The gateway: nginx in front of Flower's superlink. What is written for it, and when it reads it again."""

import base64
import contextlib
import os
import signal
from importlib import resources
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from medseg_core.files import write_atomic
from medseg_server.certificates import revocations
from medseg_server.enrolling import open_authority
from medseg_server.server_folder import ServerFolder


def write_gateway(folder: ServerFolder) -> Path:
    """nginx's configuration, with who may come in; returns its path."""
    settings, root = folder.settings, str(folder.root.absolute())
    text = (resources.files("medseg_server") / "gateway.conf").read_text()
    listen = settings.listen or f"0.0.0.0:{settings.address.rsplit(':', 1)[1]}"
    for name, value in (("root", root), ("listen", listen), ("superlink_port", str(settings.superlink_port))):
        text = text.replace(f"@{name}@", value)
    path = folder.root / "run" / "gateway.conf"
    write_admission(folder)
    write_atomic(path, text.encode())
    return path


def write_admission(folder: ServerFolder) -> None:
    """Which certificate may speak for which node key, and which certificates are revoked."""
    lines = [_binding(e.certificate_serial, e.node_key) for e in folder.enrolled().values()]
    write_atomic(folder.root / "run" / "gateway.bindings", "".join(lines).encode())
    revoked = [int(e.certificate_serial) for e in folder.roster().values() if e.status == "revoked"]
    write_atomic(folder.authority("crl"), revocations(open_authority(folder), revoked))


def reload_gateway(folder: ServerFolder) -> None:
    """Have a running nginx read again who may come in."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((folder.root / "run" / "gateway.pid").read_text()), signal.SIGHUP)


def _binding(serial: str, node_key: str) -> str:
    """A line of nginx's map: `SERIAL:BASE64(PEM of the node's public key)` is let in."""
    digits = f"{int(serial):X}"
    digits = digits.rjust(len(digits) + len(digits) % 2, "0")
    key = serialization.load_ssh_public_key(node_key.encode())
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f'"{digits}:{base64.b64encode(pem).decode()}" 1;\n'
