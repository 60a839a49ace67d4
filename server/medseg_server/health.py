"""Whether what is kept up here would take part in the next round: what a container's health check asks."""

import socket
import ssl
import time
from pathlib import Path

import psutil

from medseg_core.files import is_in_use
from medseg_core.wire.enrolment import GATEWAY_NAME
from medseg_server.gateway import addresses_in_use, revocations_have_ended
from medseg_server.server_folder import ROLES, Role, ServerFolder

PATIENCE_S = 5.0
STEWARD_S = 180.0  # it looks every 2 s; a command of Flower may take a minute


def kept_up(folder: ServerFolder) -> tuple[Role, ...]:
    """The roles that a supervisor keeps up here."""
    return tuple(role for role in ROLES if is_in_use(folder.root / "run" / role))


def fault(folder: ServerFolder, role: Role) -> str | None:
    """Why the role would not take part in the next round; None if it would."""
    match role:
        case "superlink":
            return _superlink_answers(folder) or _steward_looks(folder) or _revocations_hold(folder)
        case "superexec":
            return _superexec_runs(folder) or _superlink_answers(folder)
        case "gateway":
            return _gateway_answers(folder) or _revocations_hold(folder)


def steward_looked(folder: ServerFolder) -> None:
    """Note that the steward is at work."""
    noted = folder.root / "run" / "superlink" / "looked"
    noted.parent.mkdir(parents=True, exist_ok=True)
    noted.touch()


def _superlink_answers(folder: ServerFolder) -> str | None:
    settings = folder.settings
    host = "127.0.0.1" if is_in_use(folder.root / "run" / "superlink") else settings.superlink_host
    status = _status_of(f"{host}:{settings.superlink_port}", "localhost", folder)
    return None if status == 200 else "the superlink does not answer. Its log says why: logs/superlink.log"


def _steward_looks(folder: ServerFolder) -> str | None:
    try:
        age = time.time() - (folder.root / "run" / "superlink" / "looked").stat().st_mtime
    except OSError:
        return "the steward has not looked at roster and runs yet"
    return (
        None
        if age < STEWARD_S
        else f"the steward has not looked at roster and runs for {age:.0f} s. Restart `up`"
    )


def _superexec_runs(folder: ServerFolder) -> str | None:
    secret = str(folder.root.absolute() / "flower" / "superexec.key")
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if secret in words and any("flower-superexec" in word for word in words):
            return None
    return "superexec does not run. Its log says why: logs/superexec.log"


def _gateway_answers(folder: ServerFolder) -> str | None:
    """Without a certificate it says 401, and that is as far as we are let in."""
    found = addresses_in_use(folder)
    if found is None:
        return "the superlink's role has not written the gateway's configuration yet"
    if _status_of(f"127.0.0.1:{found.listen.rsplit(':', 1)[1]}", GATEWAY_NAME, folder) != 401:
        return "the gateway does not answer. Its log says why: logs/gateway.error.log"
    if _status_of(found.superlink, "localhost", folder) != 200:
        return f"the superlink does not answer at {found.superlink}"
    return None


def _revocations_hold(folder: ServerFolder) -> str | None:
    if revocations_have_ended(folder):
        return "the list of revoked certificates has expired: nobody is let in until the superlink's role renews it"
    return None


def _status_of(address: str, name: str, folder: ServerFolder) -> int | None:
    """The answer to GET /health of who has a certificate for `name` from our authority; None if there is none."""
    host, port = address.rsplit(":", 1)
    try:
        copies = (
            folder.authority("crt"),
            folder.for_gateway("authority.crt"),
            folder.authority_for_superexec,
        )  # each role's container has one of them
        context = ssl.create_default_context(cafile=str(next(filter(Path.exists, copies), copies[0])))
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=name) as connection,
        ):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: medseg\r\nConnection: close\r\n\r\n")
            return int(connection.recv(64).split(b" ", 2)[1])
    except (OSError, ValueError, IndexError):
        return None
