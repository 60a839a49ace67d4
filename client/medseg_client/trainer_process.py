"""`medseg-site trainer`: the long-lived process that holds the images, the device and the site's state."""

import contextlib
import logging
import threading

from medseg_client.egress import EgressGuard
from medseg_client.ledger import Ledger
from medseg_client.models import models_of
from medseg_client.site_data import SiteData, keep_opened, open_site_data
from medseg_client.site_folder import SiteFolder
from medseg_client.site_state import SiteState
from medseg_client.trainer import SiteIdentity, Trainer
from medseg_client.trainer_service import serving
from medseg_core.config import Experiment
from medseg_core.files import sole_use
from medseg_core.learning.device import choose_device, keep_freed_memory
from medseg_core.wire.signatures import load_key, public_key_of

log = logging.getLogger(__name__)


def run_trainer(folder: SiteFolder, stop: threading.Event) -> None:
    """Serve the site's socket until `stop` is set.

    Raises BusyFolderError (another trainer does already) and LedgerError (the ledger was changed).
    """
    settings, kit = folder.settings, folder.kit

    def open_data(experiment: Experiment) -> SiteData:
        return open_site_data(
            folder.root / settings.data,
            experiment,
            site=settings.name,
            cache=folder.root / "cache",
            on_warning=log.warning,
            task=settings.task_here(experiment.task),
        )

    def approve(experiment: Experiment) -> None:
        sha256 = folder.approved.add(experiment)
        log.info("approved experiment %s: [policy] approve_tasks has %s", sha256[:16], experiment.task.name)

    device = choose_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    key = load_key(folder.key("signing"))
    with sole_use(folder.root / "state"):
        ledger = Ledger(folder.ledger, key, keep_payloads_days=settings.policy.keep_payloads_days)
        trainer = Trainer(
            SiteIdentity(settings.name, public_key_of(kit.signing_key)),
            SiteState(folder.root / "state"),
            EgressGuard(key, policy=settings.policy, ledger=ledger),
            approved=folder.approved,
            data_of=keep_opened(open_data),
            device=device,
            approve=approve,
            models=models_of(folder),
        )
        with contextlib.closing(ledger), serving(trainer, folder.socket):
            log.info("ready")
            stop.wait()
