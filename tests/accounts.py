"""Accounts of this machine for the length of a test, and a site whose roles run as them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = f"medseg-{os.getpid()}"  # tests may run beside each other
NAMES = {role: f"{_PREFIX}-{role}" for role in ("trainer", "relay", "egress")}
GROUP = f"{_PREFIX}-socket"

# In a mount namespace of its own: a folder of root's on the way to the interpreter shows that and nothing else.
_OPENED = """
set -e
mount --bind "$2" "$3"
mount -t tmpfs -o mode=755 none "$1"
mkdir -p "$2"
mount --move "$3" "$2"
shift 3
exec "$@"
"""


@contextmanager
def real_accounts() -> Iterator[dict[str, str]]:
    """The accounts that `[accounts]` names; they are gone afterwards."""
    words = ("--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin")
    try:
        subprocess.run(["groupadd", "--system", GROUP], check=True)
        for name in NAMES.values():
            subprocess.run(["useradd", *words, name], check=True)
        yield {**NAMES, "socket_group": GROUP}
    finally:
        _remove()


def _remove() -> None:
    for name in NAMES.values():
        subprocess.run(["userdel", name], check=False, capture_output=True)
    for name in (GROUP, *NAMES.values()):
        subprocess.run(["groupdel", name], check=False, capture_output=True)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every account can enter; pytest's own are for one."""
    folder = Path(tempfile.mkdtemp(prefix="medseg-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reachable(*words: str) -> list[str]:
    """A command for root whose interpreter all accounts can reach, wherever this machine has it."""
    base = Path(sys.base_prefix).resolve()
    closed = [folder for folder in reversed(base.parents) if not folder.stat().st_mode & 0o001]
    if not closed:
        return list(words)
    start = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _OPENED, "sh")
    return [*start, str(closed[0]), str(base), "/mnt", *words]


def name_accounts(settings: Path, accounts: dict[str, str]) -> None:
    """[accounts] in a site.toml."""
    lines = [line for line in settings.read_text().splitlines() if not line.startswith("# [accounts]")]
    named = [f'{key} = "{value}"' for key, value in accounts.items()]
    settings.write_text("\n".join((*lines, "[accounts]", *named)) + "\n")
