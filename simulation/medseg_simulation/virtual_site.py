"""A virtual hospital: what it consists of, and who may answer for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medseg_client.egress import EgressGuard
from medseg_client.site_data import SiteData
from medseg_client.site_state import SiteState
from medseg_client.trainer import SiteIdentity, Trainer
from medseg_core.config import Experiment, experiment_sha256
from medseg_simulation.misbehaviour.conduct import Misconduct, misled
from medseg_simulation.misbehaviour.trainer import MisbehavingTrainer

OnFault = Callable[[Exception], None]


@dataclass(frozen=True)
class VirtualSite:
    """All that makes a virtual hospital; it has agreed to one experiment."""

    name: str
    experiment: Experiment
    data: SiteData
    state: Path
    key: Ed25519PrivateKey
    coordinator: Ed25519PublicKey
    misconduct: Misconduct | None = None  # None: it behaves


@runtime_checkable
class Answering(Protocol):
    """Answers the requests to one site, as its Trainer does."""

    def handle(self, request_bytes: bytes, *, is_over: Callable[[], bool] = ...) -> bytes:
        """The reply or refusal to a request."""
        ...


@runtime_checkable
class Pool(Protocol):
    """Processes elsewhere that answer for virtual sites."""

    def answer_for(self, site: VirtualSite, *, on_fault: OnFault) -> Answering:
        """A stand-in for the site, for use in any thread."""
        ...


def make_trainer(site: VirtualSite, device: torch.device, *, on_fault: OnFault) -> Trainer:
    """The site's trainer, in the process that calls."""
    data, kind = site.data, cast(Callable[..., Trainer], Trainer)
    if site.misconduct is not None:
        data = misled(site.data, site.experiment, site.misconduct)
        kind = partial(MisbehavingTrainer, site.misconduct)
    return kind(
        SiteIdentity(site.name, site.coordinator),
        SiteState(site.state),
        EgressGuard(site.key),
        approved={experiment_sha256(site.experiment): site.experiment},
        data_of=lambda experiment: data,
        device=device,
        on_fault=on_fault,
    )
