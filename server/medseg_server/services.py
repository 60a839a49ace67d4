"""The coordinator's processes, and the loop that brings Flower in line with the roster and the runs."""

import secrets
import threading
import time
from collections.abc import Callable

from medseg_core.errors import MedsegError
from medseg_core.files import write_private
from medseg_core.supervision import Service, Supervisor, nginx, program
from medseg_server.flower_control import QUIET, FlowerControl
from medseg_server.gateway import reload_gateway, revocations_end_soon, write_admission, write_gateway
from medseg_server.runs import note_all, waiting
from medseg_server.server_folder import ServerFolder

FOLDER_VARIABLE = "MEDSEG_SERVER"
LOOK_S = 2.0
PROMPT = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}  # s; on loopback. Flower's own second adds to every run
START_AGAIN_S = 45.0  # a ServerApp takes its run's folder within seconds; one that has not by then is dead

OnState = Callable[[str, str], None]


def server_units(folder: ServerFolder) -> list[list[Service]]:
    """Superlink, its superexec and the gateway: each restarts alone, and the runs go on."""
    root = folder.root.absolute()
    secret = root / "flower" / "superexec.key"
    if not secret.exists():
        write_private(secret, secrets.token_hex(32).encode())
    address = f"127.0.0.1:{folder.settings.superlink_port}"
    authority = str(folder.authority("crt").absolute())
    superlink = [
        *(program("flower-superlink"), "--host", "127.0.0.1", "--port", address.split(":")[1]),
        *("--ssl-certfile", str(folder.server("superlink", "crt").absolute())),
        *("--ssl-keyfile", str(folder.server("superlink", "key").absolute())),
        *("--ssl-ca-certfile", authority, "--enable-supernode-auth", "--isolation", "process"),
        *("--superexec-auth-secret-file", str(secret), "--database", str(root / "flower" / "state.db")),
        "--disable-runtime-dependency-installation",
    ]
    superexec = [
        *(program("flower-superexec"), "--runtime-api-address", address, "--root-certificates", authority),
        *("--superexec-auth-secret-file", str(secret)),
    ]

    def home(name: str) -> dict[str, str]:
        return {**QUIET, **PROMPT, "FLWR_HOME": str(root / "flower" / name), FOLDER_VARIABLE: str(root)}

    gateway = nginx(write_gateway(folder).absolute(), root / "logs" / "gateway.error.log")
    return [
        [Service("superlink", tuple(superlink), home("superlink"))],
        [Service("superexec", tuple(superexec), home("superexec"))],
        [Service("gateway", gateway)],
    ]


def serve(folder: ServerFolder, stop: threading.Event, on_state: OnState) -> None:
    """Keep the coordinator's processes running, sites registered and runs going, until `stop` is set."""
    control = FlowerControl(folder)
    control.prepare()
    note_all(folder)
    notes = folder.root / "run" / "processes.json"
    units = server_units(folder)
    supervisor = Supervisor(units, logs=folder.root / "logs", notes=notes, on_state=on_state)
    steward = Steward(folder, control, on_state, supervisor.restart)
    thread = threading.Thread(target=steward.run, args=(stop,), name="steward")
    thread.start()
    try:
        supervisor.run(stop)
    finally:
        stop.set()
        thread.join()


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
        for name in waiting(self._folder):
            if time.monotonic() - self._started.get(name, -START_AGAIN_S) < START_AGAIN_S:
                continue
            self._control.start(name)
            self._started[name] = time.monotonic()
            self._on_state(name, "started")


def _certificates(folder: ServerFolder) -> list[bytes]:
    """Of gateway and superlink, as they lie on disk."""
    return [folder.server(name, "crt").read_bytes() for name in ("gateway", "superlink")]
