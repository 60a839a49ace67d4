"""The models that the coordinator published to this site, and which of them this site agreed to use.

MODELS/RUN/           a signed model, as it arrived: unapproved
MODELS/approved.json  what was approved, oldest first; the last is in use
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from medseg_client.site_folder import SiteFolder
from medseg_core.errors import ModelFolderError, WireError
from medseg_core.federation.codec import decode_tensors
from medseg_core.federation.update import ModelSpec
from medseg_core.federation_errors import ApprovalsError, NoModelError
from medseg_core.files import whole_folder, write_atomic, write_synced
from medseg_core.learning.model_package import WEIGHTS
from medseg_core.learning.signed_model import SIGNATURE, check_files, check_model, unpack_model
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import Header, Name, Sha256
from medseg_core.wire.signatures import public_key_of


class Approval(BaseModel):
    """One model that this site agreed to use."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    run: Name
    weights_sha256: Sha256  # of the file
    approved_at: str  # ISO 8601


_APPROVALS = TypeAdapter(list[Approval])


@dataclass(frozen=True)
class ListedModel:
    """A model that is here."""

    run: str
    state: Literal["in use", "approved before", "unapproved", "damaged"]


def models_of(folder: SiteFolder) -> "Models":
    """The models of a site's folder. Raises NotJoinedError."""
    return Models(folder.root / "models", public_key_of(folder.kit.signing_key))


class Models:
    """The models of one site; what is in them is believed only as far as the coordinator signed it."""

    def __init__(self, folder: Path, coordinator: Ed25519PublicKey) -> None:
        self.folder, self._coordinator = folder, coordinator

    def receive(self, request: Header, package: bytes, spec: ModelSpec) -> int:
        """Keep the model of the request's own run, unapproved; returns of how many files it is.

        Raises WireError, ModelSignatureError, UpdateError, UnusableFolderError.
        """
        files = unpack_model(package)
        manifest = check_files(files, self._coordinator)
        if (manifest.run, manifest.experiment_sha256) != (request.run, request.experiment_sha256):
            raise WireError(RefusalCode.MALFORMED, f"the model of run {manifest.run!r} is not wanted here")
        decode_tensors(files[WEIGHTS], spec)
        self.keep(request.run, files)
        return len(files)

    def keep(self, run: str, files: dict[str, bytes]) -> None:
        """Store a package that was checked; the same one again changes nothing. Raises WireError, UnusableFolderError.

        Names of files are those of a model, and the name of a run is no path.
        """
        target = self.folder / run
        if target.is_dir() and any(target.iterdir()):
            if (target / SIGNATURE).read_bytes() != files[SIGNATURE]:
                raise WireError(RefusalCode.CONFLICTING_REQUEST, f"run {run} published another model before")
            return
        with whole_folder(target) as folder:
            for name, data in files.items():
                (folder / name).parent.mkdir(exist_ok=True)
                write_synced(folder / name, data)

    def listed(self) -> list[ListedModel]:
        """Every model, in the order in which they came. Raises ApprovalsError."""
        found = [path for path in self.folder.glob("*") if path.is_dir() and not path.name.startswith(".")]
        found.sort(key=lambda path: path.stat().st_mtime)
        return [ListedModel(path.name, self._state(path.name)) for path in found]

    def approve(self, run: str) -> None:
        """Use the model of a run from now on. Raises NoModelError, ModelFolderError, ApprovalsError."""
        if run not in [model.run for model in self.listed()]:
            raise NoModelError(f"no model of run {run!r} arrived here", "See `medseg-site models list DIR`")
        manifest = check_model(self.folder / run, self._coordinator)
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        new = Approval(run=run, weights_sha256=manifest.files[WEIGHTS], approved_at=now)
        self._write([*(entry for entry in self.approvals() if entry.run != run), new])

    def rollback(self) -> str:
        """Take the last approval back; returns the run whose model is in use now.

        Raises NoModelError: none was approved before that one.
        """
        before = self.approvals()[:-1]
        if not before:
            raise NoModelError(
                "there is no approved model to go back to", "Approve one with `medseg-site models approve`"
            )
        self._write(before)
        return before[-1].run

    def in_use(self) -> Path:
        """The folder of the model to use, every file as signed and approved.

        Raises NoModelError, ModelFolderError, ApprovalsError.
        """
        approvals = self.approvals()
        if not approvals:
            raise NoModelError("no model is approved here", "Approve one with `medseg-site models approve`")
        folder = self.folder / approvals[-1].run
        if check_model(folder, self._coordinator).files[WEIGHTS] != approvals[-1].weights_sha256:
            raise ModelFolderError(folder, f"{WEIGHTS} is not the one that was approved")
        return folder

    def approvals(self) -> list[Approval]:
        """What was approved, oldest first. Raises ApprovalsError."""
        path = self.folder / "approved.json"
        try:
            return _APPROVALS.validate_json(path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValidationError):
            raise ApprovalsError(path) from None

    def _state(self, run: str) -> Literal["in use", "approved before", "unapproved", "damaged"]:
        try:
            check_model(self.folder / run, self._coordinator)
        except ModelFolderError:
            return "damaged"
        approved = [entry.run for entry in self.approvals()]
        if run not in approved:
            return "unapproved"
        return "in use" if approved[-1] == run else "approved before"

    def _write(self, approvals: list[Approval]) -> None:
        write_atomic(self.folder / "approved.json", _APPROVALS.dump_json(approvals, indent=2) + b"\n")
