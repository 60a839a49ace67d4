"""nginx as the one way out of a site: its configuration, and a new kit while it runs."""

import threading
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from medseg_client.site_folder import Role, SiteFolder
from medseg_core.errors import MedsegError
from medseg_core.files import write_atomic
from medseg_core.wire.enrolment import GATEWAY_NAME

LOOK_S = 2.0


def write_way_out(folder: SiteFolder) -> Path:
    """nginx's configuration; returns its path. Raises NotJoinedError."""
    settings = folder.settings
    listen = f"[{settings.egress_listen}]" if ":" in settings.egress_listen else settings.egress_listen
    values = {
        "root": str(folder.root.absolute()),
        "run": str(folder.run(Role.EGRESS).absolute()),
        "logs": str(folder.logs(Role.EGRESS).absolute()),
        "address": folder.kit.address,
        "gateway_name": GATEWAY_NAME,
        "listen": f"{listen}:{settings.egress_port}",
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
    """Have nginx use a kit that was taken while it runs: a new certificate, another address."""
    used = _kit_files(folder)
    while not stop.wait(LOOK_S):
        if (found := _kit_files(folder)) == used or not all(found):
            continue
        used = found
        try:
            write_way_out(folder)
        except MedsegError as error:  # a kit that is half there: the rest follows, and is seen then
            tell(str(error))
            continue
        reload()
        tell("uses the new kit")


def _kit_files(folder: SiteFolder) -> tuple[bytes, ...]:
    """What `join` writes for nginx; nothing of a file that is absent."""
    paths = (folder.kit_file, folder.root / "pki" / "site.crt", folder.root / "pki" / "authority.crt")
    return tuple(path.read_bytes() if path.exists() else b"" for path in paths)
