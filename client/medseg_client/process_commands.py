"""The commands of `medseg-site` that `up` starts: a process each, until SIGTERM."""

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from medseg_client.site_folder import SiteFolder

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of this site.")]


def trainer(folder: Folder) -> None:
    """The process that sees the images; `up` starts it."""
    from medseg_client.trainer_process import run_trainer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    run_trainer(SiteFolder(folder), stop_on_signals())


def bridge(folder: Folder) -> None:
    """The way from a relay without a network to the way out; `up` starts it."""
    from medseg_client.bridge import run_bridge

    run_bridge(SiteFolder(folder), stop_on_signals())


def tunnel(folder: Folder) -> None:
    """The way through the hospital's HTTP proxy; `up` starts it."""
    from medseg_client.upstream_proxy import run_tunnel

    run_tunnel(SiteFolder(folder), stop_on_signals())


def stop_on_signals() -> threading.Event:
    """Set by SIGINT and SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
