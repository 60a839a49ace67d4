"""The far side of a pool: a process that answers for whichever virtual site is next.

It remembers no site. A site's state lies on disk as ever, its cases are mapped from the cache, and what comes and goes
is small: who the site is, and signed envelopes as bytes. So any actor may answer any request, also after another died.
"""

import importlib
import platform
from dataclasses import dataclass, field
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

import medseg_core
from medseg_client.site_data import SiteData
from medseg_core.backend_errors import UnreachableStorageError
from medseg_core.cohort.cache import StoredCase, load_stored, name_stored
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment
from medseg_core.errors import MedsegError
from medseg_core.learning.device import keep_freed_memory
from medseg_simulation.misbehaviour.conduct import Misconduct
from medseg_simulation.virtual_site import VirtualSite, make_trainer

PARTS = ("train", "validation", "test")
VERSIONS = f"medseg {medseg_core.__version__}, torch {torch.__version__}, Python {platform.python_version()}"


@dataclass(frozen=True)
class PackedSite:
    """A virtual site on its way to another process: files by their absolute paths, keys as bytes."""

    name: str
    experiment: Experiment
    cases: dict[str, tuple[StoredCase, ...]]  # by part
    state: Path
    key: bytes = field(repr=False)
    coordinator: bytes
    misconduct: Misconduct | None


def pack(site: VirtualSite) -> PackedSite:
    """The site without arrays."""
    return PackedSite(
        site.name,
        site.experiment,
        {part: tuple(name_stored(case) for case in getattr(site.data, part)) for part in PARTS},
        site.state.absolute(),
        site.key.private_bytes_raw(),
        site.coordinator.public_bytes_raw(),
        site.misconduct,
    )


def unpack(packed: PackedSite) -> VirtualSite:
    """The site with its cases mapped. Raises UnreachableStorageError, also where the run's own folder is not here."""
    if not (proof := packed.state.parent.parent / "run.json").is_file():
        raise UnreachableStorageError(proof, platform.node())
    return VirtualSite(
        packed.name,
        packed.experiment,
        SiteData(**{part: tuple(_mapped(case) for case in packed.cases[part]) for part in PARTS}),
        packed.state,
        Ed25519PrivateKey.from_private_bytes(packed.key),
        Ed25519PublicKey.from_public_bytes(packed.coordinator),
        packed.misconduct,
    )


class SiteActor:
    """Trains and scores on one device; imports everything slow when it is made."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        if device == "cpu":
            keep_freed_memory()
        for module in ("torch._dynamo", "monai.networks.nets"):
            importlib.import_module(module)

    def versions(self) -> str:
        """What must be equal on all nodes."""
        return VERSIONS

    def answer(self, packed: PackedSite, request: bytes) -> tuple[bytes, MedsegError | None]:
        """The site's reply or refusal, and what went wrong there, if anything.

        Nothing and a WireError: the site gives no answer. What is not a MedsegError is a mistake of ours and is raised.
        """
        reply, faults = b"", list[Exception]()
        try:
            reply = make_trainer(unpack(packed), self._device, on_fault=faults.append).handle(request)
        except MedsegError as error:
            faults.append(error)
        if not faults:
            return reply, None
        if isinstance(faults[0], MedsegError):
            return reply, faults[0]
        raise faults[0]


def _mapped(stored: StoredCase) -> PreprocessedCase:
    """A case from the cache. Raises UnreachableStorageError."""
    if (case := load_stored(stored)) is None:
        raise UnreachableStorageError(stored.folder, platform.node())
    return case
