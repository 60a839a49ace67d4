"""Where a site stands in its federation, and how it leaves."""

import shutil
from dataclasses import dataclass
from typing import Literal

from medseg_client.ledger import read_ledger
from medseg_client.models import models_of
from medseg_client.node_watch import last_request
from medseg_client.site_folder import Role, SiteFolder
from medseg_core.errors import BusyFolderError
from medseg_core.federation_errors import NotJoinedError
from medseg_core.files import is_in_use

FOR_PURGE = ("approved", "models", "state", "cache", "logs", "pki", "keys", "run", "import")
REPORT = "report.html"  # where `medseg-site report` writes unless told otherwise: it shows images


@dataclass(frozen=True)
class SiteStatus:
    """What `medseg-site status` tells."""

    site: str
    federation: str | None  # None: it has not joined one
    coordinator: str | None  # HOST:PORT
    state: Literal["up", "stopped"]
    last_request: (
        float | None
    )  # of the node to the coordinator, seconds since 1970; None: none that can be seen
    approved: int  # experiments
    ledger_lines: int
    models: dict[str, str]  # by run: in use, approved before, unapproved, damaged


def status(folder: SiteFolder) -> SiteStatus:
    """Where the site stands. Raises NoSiteFolderError, LedgerError, ApprovalsError."""
    settings = folder.settings
    try:
        kit, models = folder.kit, {model.run: model.state for model in models_of(folder).listed()}
    except NotJoinedError:
        kit, models = None, {}
    return SiteStatus(
        site=settings.name,
        federation=kit.federation if kit else None,
        coordinator=kit.address if kit else None,
        state="up" if any(is_in_use(folder.run(role)) for role in Role) else "stopped",
        last_request=last_request(folder.egress_log) or None,
        approved=len(folder.approved),
        ledger_lines=len(read_ledger(folder.ledger, folder.public_key, each_signature=False).lines),
        models=dict(models),
    )


def leave(folder: SiteFolder, *, purge: bool) -> None:
    """Forget the coordinator: nothing is answered any more. The site's data are not touched.

    `purge` removes keys, certificates, approvals, models, state, prepared images, the site's report, logs, and what
    imports noted of who is who, too. The ledger always stays, and the request, with whose key it is checked: it is the
    hospital's proof of what left. Raises BusyFolderError while `up` runs.
    """
    if any(is_in_use(folder.run(role)) for role in Role):
        raise BusyFolderError(folder.root / "run")
    folder.kit_file.unlink(missing_ok=True)
    (folder.root / "pki" / "site.crt").unlink(missing_ok=True)
    if purge:
        for name in FOR_PURGE:
            shutil.rmtree(folder.root / name, ignore_errors=True)
        (folder.root / REPORT).unlink(missing_ok=True)
