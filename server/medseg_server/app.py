"""Flower's ServerApp: conducts one run. Flower starts it afresh for each; the run's folder holds all that it needs."""

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from medseg_core.errors import MedsegError
from medseg_core.federation_errors import RunStoppedError, WireVersionsError
from medseg_core.files import sole_use
from medseg_core.wire.versions import SPOKEN
from medseg_server.conduct import conduct
from medseg_server.flower_transport import FlowerTransport
from medseg_server.run_store import RunStore
from medseg_server.runs import is_stopped, open_run
from medseg_server.server_folder import ServerFolder
from medseg_server.services import FOLDER_VARIABLE

RUN_KEY = "medseg-run"
WAIT_FOR_SITES_S = 120.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run that the configuration names, from where it stands; what ends it for good is written down."""
    folder = ServerFolder(Path(os.environ[FOLDER_VARIABLE]))
    name = str(context.run_config[RUN_KEY])
    store = RunStore(folder.run(name))
    transport = FlowerTransport(
        grid,
        wait_for=tuple(folder.enrolled()),
        wait_s=WAIT_FOR_SITES_S,
        on_waiting=lambda missing: store.event("waiting", sites=missing),
        on_versions=lambda site, spoken: store.event(
            "versions_differ",
            site=site,
            detail=str(WireVersionsError("the coordinator", SPOKEN, site, spoken)),
        ),
        is_stopped=lambda: is_stopped(folder, name),
    )
    with sole_use(store.folder):
        try:
            conduct(open_run(folder, name, transport))
        except RunStoppedError:
            store.event("stopped")
            return
        except MedsegError as error:
            store.event("failed", detail=str(error))
            raise
        store.event("finished")
