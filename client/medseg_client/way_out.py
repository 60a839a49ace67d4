"""nginx as the one way out of a site: its configuration, and a new kit while it runs."""

import threading
import time
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path

from medseg_client.site_folder import Role, SiteFolder
from medseg_client.upstream_proxy import tunnel_socket
from medseg_core.errors import MedsegError
from medseg_core.federation_errors import EnrolmentError, NotJoinedError
from medseg_core.files import write_atomic
from medseg_core.reloading import addresses
from medseg_core.wire.enrolment import GATEWAY_NAME

LOOK_S = 2.0
RESOLVE_S = 20.0  # between questions to the hospital's name servers


def write_way_out(folder: SiteFolder) -> Path:
    """nginx's configuration; returns its path. Raises NotJoinedError."""
    settings = folder.settings
    host = f"[{settings.egress_listen}]" if ":" in settings.egress_listen else settings.egress_listen
    listen = f"unix:{folder.hop}" if settings.accounts else f"{host}:{settings.egress_port}"
    values = {
        "root": str(folder.root.absolute()),
        "run": str(folder.run(Role.EGRESS).absolute()),
        "logs": str(folder.logs(Role.EGRESS).absolute()),
        "upstream": f"unix:{tunnel_socket(folder)}" if settings.upstream_proxy else folder.kit.address,
        "gateway_name": GATEWAY_NAME,
        "listen": listen,
    }
    text = (resources.files("medseg_client") / "egress.conf").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    path = folder.run(Role.EGRESS) / "egress.conf"
    write_atomic(path, text.encode())
    return path.absolute()


def watch_kit(
    folder: SiteFolder, reload: Callable[[], None], tell: Callable[[str], None], stop: threading.Event
) -> None:
    """Have nginx use a kit that was taken while it runs, with a new certificate, and a gateway that has moved."""
    used = _kit_files(folder), _gateway(folder)
    while not stop.wait(LOOK_S):
        found = _kit_files(folder), _gateway(folder)
        if found == used or not all(found[0]):
            continue
        used = found
        try:
            write_way_out(folder)
        except MedsegError as error:  # a kit that is half there: the rest follows, and is seen then
            tell(str(error))
            continue
        reload()
        tell("uses what has changed: kit, or address of the gateway")


def _kit_files(folder: SiteFolder) -> tuple[bytes, ...]:
    """What `join` writes for nginx; nothing of a file that is absent."""
    paths = (folder.kit_file, folder.root / "pki" / "site.crt", folder.root / "pki" / "authority.crt")
    return tuple(path.read_bytes() if path.exists() else b"" for path in paths)


def _gateway(folder: SiteFolder) -> tuple[str, ...]:
    """The gateway's addresses, as the hospital's name servers have them; none where a proxy asks for them."""
    try:
        host = folder.kit.address.rsplit(":", 1)[0].strip("[]")
    except (NotJoinedError, EnrolmentError):
        return ()
    return () if folder.settings.upstream_proxy else _addresses(host, int(time.monotonic() / RESOLVE_S))


@lru_cache(maxsize=1)
def _addresses(host: str, _moment: int) -> tuple[str, ...]:
    """Asked once a moment. nginx itself asks when it reads its configuration and never again."""
    return addresses(host)
