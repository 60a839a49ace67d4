"""A site's processes by role: the trainer, the way out, and Flower's node with its relay."""

import secrets
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

from medseg_client.local_certificate import make_local_certificate, require_local_certificate
from medseg_client.node_watch import watch_node
from medseg_client.site_folder import Role, SiteFolder
from medseg_client.upstream_proxy import proxy_of
from medseg_client.way_out import watch_kit, write_way_out
from medseg_core.files import sole_use, write_private
from medseg_core.supervision import Service, Supervisor, nginx, program

FLOWER_SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # s; on loopback. Flower's own second adds to every round
}

OnState = Callable[[str, str], None]


def keep_up(
    folder: SiteFolder, stop: threading.Event, on_state: OnState, *, roles: Collection[Role] = tuple(Role)
) -> None:
    """Keep the processes of the roles running until `stop` is set.

    They end in the order of their need of each other: a node says farewell through the way out.
    Raises BusyFolderError: another process keeps one of them up.
    """
    with ExitStack() as stack:
        for role in Role:
            if role in roles:
                stack.enter_context(_kept_up(folder, role, stop, on_state))
        stop.wait()


@contextmanager
def _kept_up(folder: SiteFolder, role: Role, stop: threading.Event, on_state: OnState) -> Iterator[None]:
    """A role's processes run while inside, watched over; `stop` is set where that fails."""
    with sole_use(folder.run(role)), ThreadPoolExecutor(2, role) as threads:
        own_stop = threading.Event()
        supervisor = Supervisor(
            _UNITS[role](folder),
            logs=folder.logs(role),
            notes=folder.run(role) / "processes.json",
            on_state=on_state,
        )
        work = [threads.submit(supervisor.run, own_stop)]
        if (watch := _watch(folder, role, supervisor, on_state)) is not None:
            work.append(threads.submit(watch, own_stop))
        for each in work:
            each.add_done_callback(lambda _: stop.set())
        try:
            yield
        finally:
            own_stop.set()
            for each in work:
                each.result()


def _watch(
    folder: SiteFolder, role: Role, supervisor: Supervisor, on_state: OnState
) -> Callable[[threading.Event], None] | None:
    """What is looked after beside a role's processes, until an event is set."""
    match role:
        case Role.TRAINER:
            return None
        case Role.EGRESS:
            reload = partial(supervisor.signal, "egress", signal.SIGHUP)
            return partial(watch_kit, folder, reload, partial(on_state, "egress"))
        case Role.RELAY:
            restart = partial(supervisor.restart, "node")
            is_at_work = partial(supervisor.is_at_work, "relay")
            return partial(watch_node, folder.egress_log, is_at_work, restart, partial(on_state, "node"))


def _trainer_units(folder: SiteFolder) -> list[list[Service]]:
    return [[Service("trainer", _own_command(folder, "trainer"))]]


def _egress_units(folder: SiteFolder) -> list[list[Service]]:
    make_local_certificate(folder)
    error_log = folder.logs(Role.EGRESS).absolute() / "egress.error.log"
    command = nginx(write_way_out(folder), error_log)
    if folder.settings.accounts:  # nginx does not start where one that was killed left its socket
        command = ("/bin/sh", "-c", 'rm -f "$1" && shift && exec "$@"', "sh", str(folder.hop), *command)
    units = [[Service("egress", command)]]
    if proxy_of(folder) is not None:
        units.insert(0, [Service("tunnel", _own_command(folder, "tunnel"))])
    return units


def _relay_units(folder: SiteFolder) -> list[list[Service]]:
    """The node with its executor, which die together: one alone would only look alive."""
    settings, run = folder.settings, folder.run(Role.RELAY).absolute()
    secret = run / "superexec.key"
    if not secret.exists():
        write_private(secret, secrets.token_hex(32).encode())
    key, authority = folder.key("node").absolute(), require_local_certificate(folder)
    host = f"[{settings.egress_host}]" if ":" in settings.egress_host else settings.egress_host
    host = "127.0.0.1" if settings.accounts else host  # there the bridge waits
    node = [
        *(program("flower-supernode"), "--superlink", f"{host}:{settings.egress_port}"),
        *("--root-certificates", str(authority), "--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", str(settings.node_port), "--isolation", "process"),
        *("--superexec-auth-secret-file", str(secret), "--node-config", f'trainer-socket="{folder.socket}"'),
    ]
    executor = [
        *(program("flower-superexec"), "--runtime-api-address", f"127.0.0.1:{settings.node_port}"),
        *("--insecure", "--superexec-auth-secret-file", str(secret)),
    ]

    def home(name: str) -> dict[str, str]:
        return {**FLOWER_SETTINGS, "FLWR_HOME": str(run / "flower" / name)}

    units = [[Service("node", tuple(node), home("node")), Service("relay", tuple(executor), home("relay"))]]
    if settings.accounts:
        units.insert(0, [Service("bridge", _own_command(folder, "bridge"))])
    return units


def _own_command(folder: SiteFolder, name: str) -> tuple[str, ...]:
    """A command of ours that serves until it is stopped."""
    return (sys.executable, "-m", "medseg_client", name, str(folder.root.absolute()))


_UNITS = {Role.TRAINER: _trainer_units, Role.EGRESS: _egress_units, Role.RELAY: _relay_units}
