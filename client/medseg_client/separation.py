"""`up` of a site whose roles run under accounts of their own: root starts each, and does nothing else for it."""

import os
import pwd
import sys
import threading
from collections.abc import Callable, Collection

from medseg_client.accounts import bring_into_order, find_accounts, require_apart
from medseg_client.services import keep_up
from medseg_client.site_folder import Role, SiteFolder
from medseg_core.federation_errors import ForeignAccountError
from medseg_core.files import sole_use
from medseg_core.supervision import Service, Supervisor, end_leftovers

STOP_S = 40.0  # a role ends its own processes, and what does not end within 10 s

OnState = Callable[[str, str], None]


def keep_up_as_asked(
    folder: SiteFolder, stop: threading.Event, on_state: OnState, *, roles: Collection[Role]
) -> None:
    """Keep roles up: as whoever starts them or, where site.toml names accounts, each as its own.

    Raises ForeignAccountError: accounts are named, and this is neither root nor the account of the roles asked for.
    """
    named = folder.settings.accounts
    if named is None:
        keep_up(folder, stop, on_state, roles=roles)
    elif os.geteuid() == 0:
        _keep_apart(folder, stop, on_state, roles)
    else:
        ours, wanted = pwd.getpwuid(os.geteuid()).pw_name, {str(getattr(named, role)) for role in roles}
        if wanted != {ours}:
            raise ForeignAccountError(ours, sorted(wanted))
        keep_up(folder, stop, on_state, roles=roles)


def prepare(folder: SiteFolder) -> None:
    """Owners and modes for the accounts that site.toml names, if it names any and this is root."""
    if (named := folder.settings.accounts) is not None and os.geteuid() == 0:
        bring_into_order(folder, find_accounts(named))


def _keep_apart(
    folder: SiteFolder, stop: threading.Event, on_state: OnState, roles: Collection[Role]
) -> None:
    """Keep up a process for each role, which keeps up the role's own. Root writes nothing where a role can write."""
    settings, notes = folder.settings, folder.root / "run" / "processes.json"
    assert settings.accounts is not None
    accounts = find_accounts(settings.accounts)
    with sole_use(folder.root / "run"):
        end_leftovers(notes, stop_s=STOP_S)
        bring_into_order(folder, accounts)
        require_apart(folder, accounts)
        up = (sys.executable, "-m", "medseg_client", "up", str(folder.root.absolute()))
        units = [
            [Service(role, accounts[role].command(*up, "--role", role))] for role in Role if role in roles
        ]
        supervisor = Supervisor(
            units, logs=folder.root / "logs", notes=notes, on_state=on_state, stop_s=STOP_S
        )
        supervisor.run(stop)
