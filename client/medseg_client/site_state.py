"""What a site remembers of a run: a transaction for each (kind, round, attempt).

A folder a request: the request's SHA-256, the reply as sent, and after training the optimiser's memory. A repeated
request gets the stored reply byte for byte. A train request names the last update that was counted; training starts
from the memory stored with that one, so an update that was not counted is as if it had never been.

    STATE/RUN/train_000007_1/{request.sha256, reply.envelope, counted, memory.safetensors}
    STATE/RUN/evaluate_validation_000007_1/{request.sha256, reply.envelope}
"""

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from safetensors.numpy import load, save

from medseg_core.errors import UnusableFolderError, WireError
from medseg_core.files import sync_folder, write_synced
from medseg_core.learning.weights import Kinds, join_kinds, split_kinds
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import Header

KEPT_COUNTED = 2  # the coordinator keeps two checkpoints: a torn newest one sends it back one round


class SiteState:
    """The transactions of one site, on disk; survives a kill at any moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recall(self, request: Header, request_sha256: str) -> bytes | None:
        """The reply stored for this very request, known by the SHA-256 of all its bytes, or None for a new one.

        Raises WireError: another request with the same round and attempt came before, or the reply is no longer kept.
        """
        folder = self._folder_of(request)
        if not folder.is_dir():
            return None
        if (folder / "request.sha256").read_text() != request_sha256:
            raise WireError(
                RefusalCode.CONFLICTING_REQUEST, f"{folder.name} of run {request.run} was another request"
            )
        try:
            return (folder / "reply.envelope").read_bytes()
        except FileNotFoundError:
            raise WireError(RefusalCode.STALE_ROUND, f"{folder.name} of run {request.run} is over") from None

    def memory_at(self, request: Header) -> Kinds:
        """What was kept, by kind, with the update that a request names as counted; nothing before the first.

        Raises WireError where that state is not here.
        """
        if request.counted_round == 0:
            return {}
        folder = self._run(request) / _counted_before(request)
        try:
            return split_kinds(load((folder / "memory.safetensors").read_bytes()))
        except FileNotFoundError:
            raise WireError(
                RefusalCode.STALE_ROUND, f"no state of {folder.name} in run {request.run}"
            ) from None

    def commit(
        self,
        request: Header,
        request_sha256: str,
        reply_bytes: bytes,
        *,
        memory: Kinds = MappingProxyType({}),
        attachments: Mapping[str, bytes] | None = None,
    ) -> None:
        """Store a reply, before it is sent. `attachments` stay at the site. Raises UnusableFolderError."""
        folder = self._folder_of(request)
        beside = folder.with_name(f".{folder.name}.tmp")
        files = {
            "request.sha256": request_sha256.encode(),
            "reply.envelope": reply_bytes,
            **(attachments or {}),
        }
        if request.kind == "train":
            files["counted"] = _counted_before(request).encode()
        if memory:
            files["memory.safetensors"] = save(join_kinds(memory))
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            for name, data in files.items():
                write_synced(beside / name, data)
            sync_folder(beside)
            beside.rename(folder)
            sync_folder(folder.parent)
        except OSError as error:
            raise UnusableFolderError(folder.parent, error.strerror or type(error).__name__) from error
        with contextlib.suppress(OSError):  # the reply is safe; the next round tidies up again
            self._prune(request)

    def tested_model(self, request: Header) -> str | None:
        """SHA-256 of the model whose test scores this run has been told, if any."""
        for folder in self._run(request).glob("evaluate_test_*"):
            return (folder / "model.sha256").read_text()
        return None

    def test_folder(self, run: str) -> Path | None:
        """Where the scores and pictures of a run's test cases are kept; None where there are none."""
        found = [path.parent for path in (self.folder / run).glob("evaluate_test_*/cases.json")]
        return max(found, key=lambda path: _number(path.name), default=None)

    def attachment(self, run: str, transaction: str, name: str) -> bytes:
        """A file stored beside a reply, for people at the site."""
        return (self.folder / run / transaction / name).read_bytes()

    def _run(self, request: Header) -> Path:
        return self.folder / request.run

    def _folder_of(self, request: Header) -> Path:
        kind = f"evaluate_{request.split}" if request.kind == "evaluate" else request.kind
        return self._run(request) / _transaction(kind, request.round, request.attempt)

    def _prune(self, request: Header) -> None:
        """Drop what no coordinator can ask for again; that a request was seen stays known.

        Kept are this training, the one that it starts from and the one before that, and the one of the best model so
        far, which may be tested; and later ones, for this may be a request that was long on its way.
        """
        run = self._run(request)
        for leftover in run.glob(".*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        if request.kind != "train":
            return
        kept = [self._folder_of(request).name]
        for _ in range(KEPT_COUNTED):
            named = run / kept[-1] / "counted"
            kept.append(named.read_text() if kept[-1] and named.is_file() else "")
        kept.append(_transaction("train", request.kept_round, request.kept_attempt))
        for folder in run.glob("train_*"):
            if folder.name not in kept and _number(folder.name) < (request.round, request.attempt):
                for name in ("reply.envelope", "memory.safetensors"):
                    (folder / name).unlink(missing_ok=True)


def _counted_before(request: Header) -> str:
    """Folder name of the training that a train request starts from; empty for the first."""
    if request.counted_round == 0:
        return ""
    return _transaction("train", request.counted_round, request.counted_attempt)


def _transaction(kind: str, round_number: int, attempt: int) -> str:
    """Folder name of a transaction; sorts by round."""
    return f"{kind}_{round_number:06d}_{attempt}"


def _number(transaction: str) -> tuple[int, int]:
    """Round and attempt in a folder's name."""
    _, round_number, attempt = transaction.rsplit("_", 2)
    return int(round_number), int(attempt)
