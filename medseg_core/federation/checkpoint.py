"""A server state on disk that is whole or absent, and found again after any crash.

`checkpoints/round_0007/` holds `weights.safetensors`, `memory.safetensors` (where the algorithm has one),
`state.json` and `manifest.json` with the SHA-256 of the others. It is written beside, flushed and renamed.
"""

import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg_core.errors import CheckpointError, UnusableFolderError, UpdateError
from medseg_core.federation.algorithms.base import ServerState, frozen
from medseg_core.federation.codec import encode_tensors, read_tensors
from medseg_core.files import sha256_of, sync_folder, write_synced
from medseg_core.learning.identity import global_sha256
from medseg_core.learning.weights import join_kinds, split_kinds

KEEP = 2  # the newest, and the one before in case a disk damages it
_MANIFEST = "manifest.json"
_FOLDER = re.compile(r"round_(\d{4,9})")


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Manifest(_Stored):
    format: Literal[1] = 1
    files: dict[str, str]  # name -> SHA-256


class _State(_Stored):
    round: int
    counted: dict[str, tuple[int, int]]
    global_sha256: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A server state read back whole, and the record that was stored with it."""

    path: Path
    state: ServerState
    record: dict[str, Any]
    global_sha256: str


def save_checkpoint(folder: Path, state: ServerState, record: Mapping[str, Any]) -> Path:
    """Write `folder/round_NNNN`, replacing one of the same round; it is on disk when this returns.

    `record` is anything that JSON holds; a figure that is not finite is stored as null.
    Raises UnusableFolderError, and then leaves nothing behind.
    """
    target = folder / f"round_{state.round:04d}"
    beside = folder / f".{target.name}.{os.getpid()}.tmp"
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for name, data in _files_of(state, record).items():
            write_synced(beside / name, data)
        sync_folder(beside)
        _discard(target)
        beside.rename(target)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise UnusableFolderError(folder, error.strerror or type(error).__name__) from error
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, every hash checked. Raises CheckpointError."""
    try:
        files = _checked_files(path)
        stored = _State.model_validate_json(files["state.json"])
        weights = read_tensors(files["weights.safetensors"])
        joined = read_tensors(files["memory.safetensors"]) if "memory.safetensors" in files else {}
        memory = {kind: frozen(tensors) for kind, tensors in sorted(split_kinds(joined).items())}
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or type(error).__name__})") from None
    except KeyError as error:
        raise CheckpointError(path, f"has no {error.args[0]}") from None
    except (ValidationError, UpdateError):
        raise CheckpointError(path, "was written by another version of medseg") from None
    if path.name != f"round_{stored.round:04d}":
        raise CheckpointError(path, f"holds round {stored.round}")
    state = ServerState(frozen(weights), memory, stored.round, stored.counted)
    return Checkpoint(path, state, stored.record, stored.global_sha256)


def newest_checkpoint(folder: Path, on_torn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None; each newer one that is not is named to `on_torn`."""
    for _, path in sorted(_rounds_in(folder).items(), reverse=True):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            on_torn(str(error))
    return None


def prune_checkpoints(folder: Path, *, keep: int = KEEP, pinned: Collection[int] = ()) -> None:
    """Remove all but the newest `keep` and the pinned rounds, and what crashed writers left.

    Raises UnusableFolderError.
    """
    rounds = _rounds_in(folder)
    kept = set(sorted(rounds)[-keep:]) | set(pinned)
    try:
        for number in rounds.keys() - kept:
            _discard(rounds[number])
    except OSError as error:
        raise UnusableFolderError(folder, error.strerror or type(error).__name__) from error
    for leftover in folder.glob(".round_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _files_of(state: ServerState, record: Mapping[str, Any]) -> dict[str, bytes]:
    """Names and contents of a checkpoint's files, the manifest last."""
    stored = _State(
        round=state.round,
        counted={site: (number, attempt) for site, (number, attempt) in sorted(state.counted.items())},
        global_sha256=global_sha256(state.weights),
        record=dict(record),
    )
    files = {"weights.safetensors": encode_tensors(state.weights), "state.json": _json(stored)}
    if state.memory:
        files["memory.safetensors"] = encode_tensors(join_kinds(state.memory))
    manifest = _Manifest(files={name: sha256_of(data) for name, data in sorted(files.items())})
    return {**files, _MANIFEST: _json(manifest)}


def _checked_files(path: Path) -> dict[str, bytes]:
    """Contents of all files that the manifest names. Raises CheckpointError, OSError or ValidationError."""
    try:
        manifest = _Manifest.model_validate_json((path / _MANIFEST).read_bytes())
    except ValidationError:
        raise CheckpointError(path, f"has a damaged {_MANIFEST}") from None
    files = {}
    for name, expected in manifest.files.items():
        if name not in ("weights.safetensors", "memory.safetensors", "state.json"):
            raise CheckpointError(path, f"has a damaged {_MANIFEST}")
        files[name] = (path / name).read_bytes()
        if sha256_of(files[name]) != expected:
            raise CheckpointError(path, f"has a damaged {name} (its SHA-256 differs from the manifest)")
    return files


def _rounds_in(folder: Path) -> dict[int, Path]:
    """Checkpoint folders by round; an absent folder has none. Raises UnusableFolderError."""
    if not folder.is_dir():
        return {}
    try:
        found = {path: _FOLDER.fullmatch(path.name) for path in folder.iterdir() if path.is_dir()}
    except OSError as error:
        raise UnusableFolderError(folder, error.strerror or type(error).__name__) from error
    return {int(match[1]): path for path, match in found.items() if match}


def _discard(path: Path) -> None:
    """Remove a checkpoint, out of sight first: a crash in between leaves no half of it under its name."""
    if path.exists():
        aside = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _json(stored: BaseModel) -> bytes:
    return stored.model_dump_json(indent=2).encode() + b"\n"
