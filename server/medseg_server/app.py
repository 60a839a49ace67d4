"""Flower's ServerApp: conducts one run. Flower starts it afresh for each; the run's folder holds all that it needs."""

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from medseg_core.files import sole_use
from medseg_server.conduct import conduct
from medseg_server.flower_transport import FlowerTransport
from medseg_server.server_folder import ServerFolder

FOLDER_VARIABLE = "MEDSEG_SERVER"  # set by `medseg-server up` for the processes that it starts
RUN_KEY = "medseg-run"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run that the configuration names, from where it stands."""
    folder = ServerFolder(Path(os.environ[FOLDER_VARIABLE]))
    name = str(context.run_config[RUN_KEY])
    with sole_use(folder.run(name)):
        conduct(folder.open_run(name, FlowerTransport(grid, wait_for=folder.enrolled(), wait_s=120.0)))
