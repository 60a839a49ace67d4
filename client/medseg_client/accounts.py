"""Each role under an account of its own: who may read what in a site's folder, and whether that holds."""

import grp
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medseg_client.enclosure import Network
from medseg_client.site_folder import Accounts, Role, SiteFolder
from medseg_core.federation_errors import (
    EnclosureError,
    LeakyAccountError,
    PlantedLinkError,
    SharedAccountError,
    UnknownAccountError,
    UnreachableError,
)

PATIENCE_S = 60.0
NETWORKS: dict[Role, Network] = {Role.TRAINER: "none", Role.RELAY: "loopback", Role.EGRESS: "host"}
TRAINERS = ("approved", "models", "ledger", "state", "cache", "run/trainer", "logs/trainer")
_READABLE = r'for path; do if [ -r "$path" ]; then printf "%s\n" "$path"; fi; done'


@dataclass(frozen=True)
class Account:
    """An account that exists: the role that runs as it, its number, and the groups that it is given."""

    role: Role
    name: str
    uid: int
    gid: int
    groups: tuple[str, ...] = ()  # beside those that the system gives it

    def command(self, *words: str) -> tuple[str, ...]:
        """The words, to be started by root, as a command of this account in its role's network."""
        start = (sys.executable, "-m", "medseg_client.enclosure")
        return (*start, self.name, ",".join(self.groups), NETWORKS[self.role], *words)

    def readable(self, paths: Iterable[Path]) -> set[Path]:
        """Which of the paths this account can read. Raises EnclosureError."""
        by_name = {str(path.absolute()): path for path in paths}  # it starts in another folder
        command = self.command("/bin/sh", "-c", _READABLE, "sh", *by_name)
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        if done.returncode != 0:
            raise EnclosureError(self.name, (done.stderr.strip().splitlines() or ["no reason given"])[-1])
        return {by_name[name] for name in done.stdout.splitlines()}


def find_accounts(named: Accounts) -> dict[Role, Account]:
    """The accounts that site.toml names. Raises UnknownAccountError, SharedAccountError."""
    try:
        socket_group = grp.getgrnam(named.socket_group)
    except KeyError:
        raise UnknownAccountError("group", named.socket_group) from None
    found = {}
    for role in Role:
        name = str(getattr(named, role))
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise UnknownAccountError("account", name) from None
        groups = () if role is Role.EGRESS else (socket_group.gr_name,)
        found[role] = Account(role, name, entry.pw_uid, entry.pw_gid, groups)
    uids, gids = {a.uid for a in found.values()}, {a.gid for a in found.values()}
    if len({0} | uids) <= len(Role) or len({0, socket_group.gr_gid} | gids) <= len(Role) + 1:
        raise SharedAccountError([account.name for account in found.values()])
    return found


def bring_into_order(folder: SiteFolder, accounts: dict[Role, Account]) -> None:
    """Owners and modes, so that each account reads and writes what its role needs and no more. Needs root.

    Raises PlantedLinkError: whoever owned the folder before may have let code of others run in it.
    """
    trainer, relay, egress = (accounts[role] for role in (Role.TRAINER, Role.RELAY, Role.EGRESS))
    root, named = folder.root, folder.settings.accounts
    assert named is not None
    for path in (root, root / "keys", root / "pki", root / "run", root / "logs"):
        path.mkdir(exist_ok=True)
        _give(path, 0, 0, 0o755)
    for path in (root / "site.toml", folder.request, folder.kit_file, *(root / "pki").glob("*.crt")):
        _give(path, 0, 0, 0o644)
    for path, owner in (
        (folder.key("signing"), trainer),
        (folder.key("node"), relay),
        (folder.key("tls"), egress),
        (folder.local_key, egress),
        (folder.proxy_login, egress),
    ):
        _give(path, owner.uid, owner.gid, 0o600)
    for name in TRAINERS:
        _give_folder(root / name, trainer, 0o700)
    for role, logs_mode in ((relay, 0o700), (egress, 0o755)):  # everybody may see what went out when
        _give_folder(folder.run(role.role), role, 0o700)
        _give_folder(folder.logs(role.role), role, logs_mode)
    _give_folder(folder.socket.parent, trainer, 0o2750, grp.getgrnam(named.socket_group).gr_gid)
    _give_folder(folder.hop.parent, egress, 0o2750, relay.gid)


def require_apart(folder: SiteFolder, accounts: dict[Role, Account]) -> None:
    """Each account reaches what it needs, and none what is another's. Raises UnreachableError, LeakyAccountError."""
    needed = (Path(sys.executable), Path(__file__).parent, folder.root / "site.toml")
    for account in accounts.values():
        wanted = [*needed, images_of(folder)] if account.role is Role.TRAINER else needed
        readable = account.readable(wanted)
        for path in wanted:
            if path not in readable:
                raise UnreachableError(account.name, path)
    for account, path in leaks(folder, accounts):
        raise LeakyAccountError(account.name, path)


def leaks(folder: SiteFolder, accounts: dict[Role, Account]) -> Iterator[tuple[Account, Path]]:
    """What an account can read and must not. Needs root. Raises EnclosureError."""
    tls = [folder.key("tls"), folder.local_key, folder.proxy_login]
    node = [folder.key("node"), folder.run(Role.RELAY)]
    of_imports = [folder.pseudonym_key, folder.pacs_login, folder.imports]
    trainers = [
        folder.key("signing"),
        images_of(folder),
        *of_imports,
        *(folder.root / name for name in TRAINERS),
    ]
    forbidden = {
        Role.TRAINER: [*tls, *node, folder.hop.parent],
        Role.RELAY: [*tls, *trainers],
        Role.EGRESS: [*node, *trainers, folder.socket.parent],
    }
    for account in accounts.values():
        readable = account.readable(forbidden[account.role])
        yield from ((account, path) for path in forbidden[account.role] if path in readable)


def images_of(folder: SiteFolder) -> Path:
    """The images, or the list that names them."""
    return (folder.root / folder.settings.data).absolute()


def _give(path: Path, uid: int, gid: int, mode: int) -> None:
    """Owner and mode of a file or folder that lies directly in a folder of root's; absent ones have none.

    Raises PlantedLinkError: the name leads to something that lies elsewhere, and root did not make it do so.
    """
    if not path.exists():
        return
    entry, found = path.lstat(), path.stat()
    if (stat.S_ISLNK(entry.st_mode) and entry.st_uid != 0) or (
        stat.S_ISREG(found.st_mode) and found.st_nlink > 1
    ):
        raise PlantedLinkError(path)
    os.chown(path, uid, gid)
    path.chmod(mode)


def _give_folder(path: Path, owner: Account, mode: int, gid: int | None = None) -> None:
    """A folder and all that it holds to an account. Raises PlantedLinkError.

    Links in it are not followed, and a file with a second name is left: whoever runs as the account put it there.
    """
    path.mkdir(parents=True, exist_ok=True)
    _give(path, owner.uid, owner.gid if gid is None else gid, mode)
    for _, folders, files, place in os.fwalk(path.resolve()):
        for name in (*folders, *files):
            found = os.stat(name, dir_fd=place, follow_symlinks=False)
            is_single = stat.S_ISDIR(found.st_mode) or found.st_nlink == 1
            if found.st_uid != owner.uid and is_single:
                os.chown(name, owner.uid, owner.gid, dir_fd=place, follow_symlinks=False)
