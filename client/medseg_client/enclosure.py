"""Become another account, with the network that its role may have, then another program.

    python -m medseg_client.enclosure ACCOUNT GROUP,.. host|loopback|none PROGRAM [WORD ..]

Started by root, for one role. Standard library alone: nothing of ours runs with root's rights and a role's input.
"""

import ctypes
import fcntl
import grp
import os
import pwd
import socket
import struct
import sys
from typing import Literal, NoReturn, cast

Network = Literal["host", "loopback", "none"]

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_KEPT = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH")  # of root's environment
_KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "FLWR_")


def enclose(account: str, groups: list[str], network: Network, command: list[str]) -> NoReturn:
    """Go on as `account` and `command`. Raises OSError where the machine does not allow it, KeyError for no account."""
    user = pwd.getpwnam(account)
    wanted = {grp.getgrnam(name).gr_gid for name in groups} | set(os.getgrouplist(account, user.pw_gid))
    if network != "host":
        _leave_the_network()
    if network == "loopback":
        _raise_loopback()
    os.setgroups(sorted(wanted))
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # no way back by a setuid program
    os.chdir("/")
    os.umask(0o022)
    os.execve(command[0], command, _environment(user))  # noqa: S606


def _environment(user: pwd.struct_passwd) -> dict[str, str]:
    """What a role may know of root's environment, which can hold secrets of other programs."""
    kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
    return {**kept, "HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}


def _leave_the_network() -> None:
    """From now on this process has a network of its own, with nothing in it."""
    _call("unshare", _CLONE_NEWNET)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _call(name: str, *arguments: int) -> None:
    """A call of the C library that Python 3.11 has no function for. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    account, groups, network, *command = sys.argv[1:]
    enclose(account, [name for name in groups.split(",") if name], cast("Network", network), command)
