"""A site's processes: the trainer, the way out, and Flower's node with its relay."""

import contextlib
import datetime as dt
import ipaddress
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from medseg_client.site_folder import SiteFolder
from medseg_core.files import write_atomic, write_private
from medseg_core.supervision import Service, Supervisor, nginx, program
from medseg_core.wire.enrolment import GATEWAY_NAME

EGRESS_DAYS = 3650
LOOK_S = 5.0
SILENT_S = 90.0
TAIL_BYTES = 64 * 1024  # of a log: hundreds of its lines
FLOWER_SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # s; on loopback. Flower's own second adds to every round
    "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(
        512 * 1024
    ),  # each must pass the uplink within 30 s: 60 kB/s is enough
}

OnState = Callable[[str, str], None]


def keep_up(folder: SiteFolder, stop: threading.Event, on_state: OnState) -> None:
    """Keep the site's processes running until `stop` is set; a node that only looks alive is started anew."""
    supervisor = Supervisor(site_units(folder), folder.root, on_state=on_state)

    def restart_node() -> None:
        on_state("node", f"has not asked for messages for {SILENT_S:.0f} s")
        supervisor.restart("node")

    words = (folder.egress_log, lambda: supervisor.is_at_work("relay"), restart_node, stop)
    watch = threading.Thread(target=watch_node, args=words, name="watch_node")
    watch.start()
    try:
        supervisor.run(stop)
    finally:
        stop.set()
        watch.join()


def watch_node(
    log: Path, is_at_work: Callable[[], bool], restart: Callable[[], None], stop: threading.Event
) -> None:
    """Restart a node whose requests, seen in the log of the way out, are heartbeats and nothing else.

    It asks for messages every 3 s, but while the relay is at work on one. A node whose relay died without a word says
    that it is alive, and never asks again.
    """
    heard = time.time()
    while not stop.wait(LOOK_S):
        heard = time.time() if is_at_work() else max(heard, last_request(log))
        if time.time() - heard > SILENT_S:
            restart()
            heard = time.time()


def last_request(log: Path) -> float:
    """When the newest request that is no heartbeat went out, in seconds since 1970; 0 for none that can be seen."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return 0.0
    for line in reversed(lines):
        if "/v1/fleet/" in line and "send-node-heartbeat" not in line:
            with contextlib.suppress(ValueError):
                return dt.datetime.fromisoformat(line.split(" ", 1)[0]).timestamp()
    return 0.0


def site_units(folder: SiteFolder) -> list[list[Service]]:
    """Trainer, egress proxy, and the node with its executor, which die together: one alone would only look alive."""
    settings, root = folder.settings, folder.root.absolute()
    secret = root / "run" / "superexec.key"
    if not secret.exists():
        write_private(secret, secrets.token_hex(32).encode())
    local = _local_certificate(folder)
    node = [
        *(program("flower-supernode"), "--superlink", f"127.0.0.1:{settings.egress_port}"),
        *(
            "--root-certificates",
            str(local),
            "--auth-supernode-private-key",
            str(folder.key("node").absolute()),
        ),
        *("--host", "127.0.0.1", "--port", str(settings.node_port), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(secret), "--node-config", f'trainer-socket="{folder.socket}"'),
    ]
    executor = [
        *(program("flower-superexec"), "--runtime-api-address", f"127.0.0.1:{settings.node_port}"),
        *("--insecure", "--superexec-auth-secret-file", str(secret)),
    ]

    def home(name: str) -> dict[str, str]:
        return {**FLOWER_SETTINGS, "FLWR_HOME": str(root / "run" / "flower" / name)}

    trainer = (sys.executable, "-m", "medseg_client", "trainer", str(root))
    egress = nginx(_write_egress(folder).absolute(), root / "logs" / "egress.error.log")
    return [
        [Service("trainer", trainer)],
        [Service("egress", egress)],
        [Service("node", tuple(node), home("node")), Service("relay", tuple(executor), home("relay"))],
    ]


def _write_egress(folder: SiteFolder) -> Path:
    """nginx's configuration; returns its path."""
    settings, address = folder.settings, folder.kit.address
    values = {
        "root": str(folder.root.absolute()),
        "address": address,
        "gateway_name": GATEWAY_NAME,
        "egress_port": str(settings.egress_port),
    }
    text = (resources.files("medseg_client") / "egress.conf").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    path = folder.root / "run" / "egress.conf"
    write_atomic(path, text.encode())
    return path


def _local_certificate(folder: SiteFolder) -> Path:
    """A certificate of this machine for the hop from node to egress proxy, made once."""
    certificate, key_file = folder.root / "pki" / "egress.crt", folder.root / "pki" / "egress.key"
    if certificate.exists():
        return certificate.absolute()
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "medseg egress")])
    now = dt.datetime.now(dt.UTC)
    loopback = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=EGRESS_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(loopback, critical=False)
        .sign(key, hashes.SHA384())
    )
    pem = serialization.Encoding.PEM
    write_private(
        key_file,
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    write_atomic(certificate, made.public_bytes(pem))
    return certificate.absolute()
