"""A hospital that is part of a real federation, but for Flower: its folder, its trainer, and runs with it."""

from pathlib import Path
from typing import Any

import torch
from builders import ScriptedTransport, make_site_data
from enrolment import make_server

from medseg_client.egress import EgressGuard
from medseg_client.joining import accept, begin
from medseg_client.ledger import Ledger
from medseg_client.models import models_of
from medseg_client.policy import Policy
from medseg_client.site_data import SiteData
from medseg_client.site_folder import SiteFolder, SiteSettings
from medseg_client.site_state import SiteState
from medseg_client.trainer import SiteIdentity, Trainer
from medseg_core.config import Experiment
from medseg_core.wire.enrolment import read_request
from medseg_core.wire.signatures import load_key, public_key_of
from medseg_server.enrolling import enrol
from medseg_server.run import Run
from medseg_server.run_store import RunStore
from medseg_server.server_folder import ServerFolder


def make_joined_site(root: Path, name: str = "north", **rules: Any) -> tuple[ServerFolder, SiteFolder]:
    """A coordinator's folder and that of its only site, in `root`."""
    server, site = make_server(root / "server"), SiteFolder(root / name)
    policy = Policy.model_validate({"min_patients_update": 1, "min_patients_score": 1, **rules})
    begin(site, SiteSettings(name=name, data=Path("images"), egress_port=1, node_port=2, policy=policy))
    accept(site, enrol(server, read_request(site.request.read_bytes())))
    return server, site


def trainer_of(site: SiteFolder, data: SiteData | None = None) -> Trainer:
    """The trainer as `medseg-site trainer` makes it, with cases in memory."""
    key, policy = load_key(site.key("signing")), site.settings.policy
    ledger = Ledger(site.ledger, key, keep_payloads_days=0)
    cases = data or make_site_data(site.settings.name, test=4)
    return Trainer(
        SiteIdentity(site.settings.name, public_key_of(site.kit.signing_key)),
        SiteState(site.root / "state"),
        EgressGuard(key, policy=policy, ledger=ledger),
        approved=site.approved,
        data_of=lambda _: cases,
        device=torch.device("cpu"),
        models=models_of(site),
        on_fault=lambda error: None,
    )


def run_with(server: ServerFolder, trainer: Trainer, experiment: Experiment, name: str, site: str) -> Run:
    """A run of the federation with one site."""
    store = RunStore(server.run(name))
    store.open(experiment, run=name, resume=True)
    transport = ScriptedTransport({site: lambda request: trainer.handle(request.to_bytes())})
    return Run(name, experiment, server.coordinator(), transport, store)
