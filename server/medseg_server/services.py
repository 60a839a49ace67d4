"""The coordinator's processes, and the loop that brings Flower in line with the roster and the runs."""

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from medseg_core.errors import MedsegError
from medseg_core.files import sole_use, write_atomic, write_private
from medseg_core.reloading import follow
from medseg_core.supervision import Service, Supervisor, nginx, program
from medseg_server.flower_control import QUIET, FlowerControl
from medseg_server.gateway import (
    reload_gateway,
    revocations_end_soon,
    what_it_reads,
    write_admission,
    write_gateway,
)
from medseg_server.health import steward_looked
from medseg_server.server_folder import ROLES, Role, ServerFolder

FOLDER_VARIABLE = "MEDSEG_SERVER"
LOOK_S = 2.0
PROMPT = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}  # s; on loopback. Flower's own second adds to every run
START_AGAIN_S = 45.0  # a ServerApp takes its run's folder within seconds; one that has not by then is dead

OnState = Callable[[str, str], None]


def serve(
    folder: ServerFolder, stop: threading.Event, on_state: OnState, *, roles: Sequence[Role] = ROLES
) -> None:
    """Keep processes running until `stop` is set; with the superlink, sites registered and runs going.

    Each role may be kept up by a process, container or machine of its own. Raises BusyFolderError: one is already.
    """
    with ExitStack() as stack:
        for role in roles:
            stack.enter_context(sole_use(folder.root / "run" / role))
        if "superlink" in roles:
            _prepare(folder)
        units = [[_service(folder, role)] for role in ROLES if role in roles]
        notes = folder.root / "run" / roles[0] / "processes.json"
        supervisor = Supervisor(units, logs=folder.root / "logs", notes=notes, on_state=on_state)
        if "gateway" in roles:
            words = (lambda: what_it_reads(folder), lambda: reload_gateway(folder), stop)
            threading.Thread(target=follow, args=words, daemon=True).start()
        if "superlink" in roles:
            steward = Steward(folder, FlowerControl(folder), on_state, supervisor.restart)
            thread = threading.Thread(target=steward.run, args=(stop,), name="steward")
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        supervisor.run(stop)


def _prepare(folder: ServerFolder) -> None:
    """All that the other roles need of the one that holds the authority's key."""
    if not _secret(folder).exists():
        write_private(_secret(folder), secrets.token_hex(32).encode())
    from medseg_server.runs import note_all  # torch, which the gateway never needs

    write_atomic(folder.authority_for_superexec, folder.authority("crt").read_bytes())
    FlowerControl(folder).prepare()
    _make_state(_state(folder))
    write_gateway(folder)
    note_all(folder)


def _make_state(path: Path) -> None:
    """The superlink's database, if there is none, with SQLite's largest pages: updates pass twice as fast."""
    if not path.exists():
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA page_size = 65536")
            database.execute("PRAGMA journal_mode = WAL")  # as Flower has it; writes the first page


def _service(folder: ServerFolder, role: Role) -> Service:
    """What is kept running for a role."""
    if role == "gateway":
        configuration = folder.for_gateway("gateway.conf").absolute()
        return Service(role, nginx(configuration, folder.root.absolute() / "logs" / "gateway.error.log"))
    root = folder.root.absolute()
    home = {**QUIET, **PROMPT, "FLWR_HOME": str(root / "flower" / role), FOLDER_VARIABLE: str(root)}
    return Service(role, _superlink(folder) if role == "superlink" else _superexec(folder), home)


def _superlink(folder: ServerFolder) -> tuple[str, ...]:
    settings = folder.settings
    return (
        *(program("flower-superlink"), "--host", settings.superlink_listens_on),
        *("--port", str(settings.superlink_port)),
        *("--ssl-certfile", str(folder.server("superlink", "crt").absolute())),
        *("--ssl-keyfile", str(folder.server("superlink", "key").absolute())),
        *("--ssl-ca-certfile", str(folder.authority("crt").absolute())),
        *("--enable-supernode-auth", "--isolation", "process"),
        *("--superexec-auth-secret-file", str(_secret(folder)), "--database", str(_state(folder))),
        "--disable-runtime-dependency-installation",
    )


def _superexec(folder: ServerFolder) -> tuple[str, ...]:
    settings = folder.settings
    return (
        *(program("flower-superexec"), "--runtime-api-address"),
        f"{settings.superlink_host}:{settings.superlink_port}",
        *("--root-certificates", str(folder.authority_for_superexec.absolute())),
        *("--superexec-auth-secret-file", str(_secret(folder))),
    )


def _state(folder: ServerFolder) -> Path:
    """The superlink's database."""
    return folder.root.absolute() / "flower" / "state.db"


def _secret(folder: ServerFolder) -> Path:
    """What superlink and superexec know each other by."""
    return folder.root.absolute() / "flower" / "superexec.key"


class Steward:
    """Registers who was enrolled, shuts out who was revoked, renews what expires, starts the runs that are wanted."""

    def __init__(
        self, folder: ServerFolder, control: FlowerControl, on_state: OnState, restart: Callable[[str], None]
    ) -> None:
        self._folder, self._control, self._on_state, self._restart = folder, control, on_state, restart
        self._certificates = _certificates(folder)
        self._registered_as: object = None
        self._started: dict[str, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Look, do, wait; what fails is said and tried again."""
        while not stop.wait(LOOK_S):
            try:
                self.look()
            except MedsegError as error:
                self._on_state("steward", str(error))
                stop.wait(LOOK_S)

    def look(self) -> None:
        """Do once what is to be done. Raises FlowerError."""
        self._renew_revocations()
        self._read_certificates()
        self._register()
        self._start_runs()
        steward_looked(self._folder)

    def _register(self) -> None:
        """Bring Flower's nodes and the gateway's bindings in line with the roster, if that has changed."""
        roster = self._folder.roster()
        if roster == self._registered_as:
            return
        write_admission(self._folder)  # before Flower is asked: who was shut out is out at once
        reload_gateway(self._folder)
        nodes = self._control.nodes()
        entitled = {e.node_key: site for site, e in roster.items() if e.status == "enrolled"}
        for node_key, node in nodes.items():
            if node_key not in entitled:
                self._control.unregister(node.identifier)
                self._on_state("steward", f"node {node.identifier} is shut out")
        for node_key, site in entitled.items():
            if node_key not in nodes:
                self._control.register(site, node_key)
                self._on_state(site, "registered")
        self._registered_as = roster

    def _renew_revocations(self) -> None:
        """Sign the list of revoked certificates anew in time: with one that has expired nobody would be let in."""
        if revocations_end_soon(self._folder):
            write_admission(self._folder)
            reload_gateway(self._folder)
            self._on_state("gateway", "the list of revoked certificates is renewed")

    def _read_certificates(self) -> None:
        """Have the servers use certificates that were renewed; the runs go on."""
        found = _certificates(self._folder)
        if found != self._certificates:
            self._certificates = found
            reload_gateway(self._folder)
            self._restart("superlink")
            self._on_state("gateway", "has new certificates, and so has the superlink")

    def _start_runs(self) -> None:
        """Start the Flower run of each run that is wanted and that no process conducts."""
        from medseg_server.runs import waiting  # torch, which the gateway never needs

        for name in waiting(self._folder):
            if time.monotonic() - self._started.get(name, -START_AGAIN_S) < START_AGAIN_S:
                continue
            self._control.start(name)
            self._started[name] = time.monotonic()
            self._on_state(name, "started")


def _certificates(folder: ServerFolder) -> list[bytes]:
    """Of gateway and superlink, as they lie on disk."""
    return [folder.server(name, "crt").read_bytes() for name in ("gateway", "superlink")]
