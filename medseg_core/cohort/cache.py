"""Preprocessed cases on disk, keyed by content and settings, memory-mapped.

One folder a case, written beside and renamed: it is whole or absent. A changed file, task or arithmetic has another
key, so nothing is ever stale; what is no longer asked for can be deleted at any time. A second start opens no image,
but for headers of text: what a file holds is remembered while size and times of the file stay.

    CACHE/KEY/{case.json, arrays.safetensors}
    CACHE/files/STATE                            SHA-256 of a file in that state
"""

import contextlib
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import safetensors.torch
from pydantic import TypeAdapter

from medseg_core.cohort.digests import remembered_sha256
from medseg_core.cohort.manifest import read_cohort
from medseg_core.cohort.preprocess import PREPROCESSING_VERSION, PreprocessedCase, preprocess
from medseg_core.cohort.reading import Reading
from medseg_core.config import Task
from medseg_core.errors import DataError, FaultyCasesError, UnusableFolderError
from medseg_core.files import write_synced
from medseg_core.imaging.integrity import data_file_of
from medseg_core.types import Case, Geometry

ARRAYS = ("image", "label", "foreground")
FILES = "files"
SETTINGS = {
    "channels",
    "labels",
    "background",
    "ignore_value",
    "spacing_mm",
    "longest_side_px",
    "orientation",
    "foreground_crop",
    "allow_empty_label",  # a label that is refused now may have passed before
}
_WITH_HEADERS = (".mha", ".mhd", ".nhdr", ".nrrd")  # of text, which can name another file for the voxels
UNREADABLE = (OSError, ValueError, KeyError, safetensors.SafetensorError)  # pydantic's are ValueErrors
_ABANDONED_S = 24 * 3600  # no case takes that long to write


@dataclass(frozen=True)
class _Record:
    """What `case.json` holds."""

    geometry: Geometry
    original: Geometry
    label_voxels: tuple[int, ...]
    warnings: tuple[str, ...]


_RECORD = TypeAdapter(_Record)


@dataclass(frozen=True)
class CacheFault:
    """A case that could not be prepared, and why."""

    case: Case
    error: DataError


@dataclass(frozen=True)
class StoredCase:
    """A prepared case by its place in the cache: what another process needs to map it. Paths are absolute."""

    case: Case
    reading: Reading
    folder: Path


@dataclass(frozen=True)
class Prepared:
    """What became of a list of cases."""

    cases: dict[str, PreprocessedCase]  # by case_id
    faults: tuple[CacheFault, ...]
    warnings: tuple[str, ...]
    n_read: int  # cases that were not in the cache


def prepare_cohort(
    data: Path, task: Task, folder: Path, *, threads: int, on_warning: Callable[[str], None]
) -> list[PreprocessedCase]:
    """Every case of a folder or manifest, in the order of their identifiers. Raises ManifestError, FaultyCasesError."""
    cohort = read_cohort(data, task)
    prepared = prepare_cases(cohort.cases, task, folder, threads=threads)
    if prepared.faults:
        raise FaultyCasesError([fault.error for fault in prepared.faults], len(cohort.cases))
    for warning in (*cohort.warnings, *prepared.warnings):
        on_warning(warning)
    return sorted(prepared.cases.values(), key=lambda c: c.case.case_id)


def prepare_cases(
    cases: Sequence[Case],
    task: Task,
    folder: Path,
    *,
    threads: int,
    on_case: Callable[[], None] = lambda: None,
) -> Prepared:
    """Every case preprocessed, as the task says. Order of `cases` is kept."""
    readings = [(case, Reading(task)) for case in cases]
    return prepare_readings(readings, folder, threads=threads, on_case=on_case)


def prepare_readings(
    readings: Sequence[tuple[Case, Reading]],
    folder: Path,
    *,
    threads: int,
    on_case: Callable[[], None] = lambda: None,
) -> Prepared:
    """Every case preprocessed as its reading says, in the same order: from the cache, or opened, checked, stored."""
    _sweep(folder)

    def prepare(one: tuple[Case, Reading]) -> tuple[PreprocessedCase | DataError, tuple[str, ...], bool]:
        try:
            return _prepare(*one, folder / _case_key(*one, folder / FILES))
        except DataError as error:
            return error, (), True
        finally:
            on_case()

    with ThreadPoolExecutor(max_workers=threads) as pool:
        results = list(pool.map(prepare, readings))
    paired = [(case, result) for (case, _), result in zip(readings, results, strict=True)]
    return Prepared(
        cases={case.case_id: got for case, (got, _, _) in paired if isinstance(got, PreprocessedCase)},
        faults=tuple(CacheFault(case, got) for case, (got, _, _) in paired if isinstance(got, DataError)),
        warnings=tuple(text for _, (_, texts, _) in paired for text in texts),
        n_read=sum(fresh for _, (_, _, fresh) in paired),
    )


def cases_sha256(cases: Sequence[Case], folder: Path) -> str:
    """What names a data set, wherever it lies: its cases, whose they are, and the bytes of their files.

    `folder` is the cache, in which digests of files are remembered.
    """
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda case: case.case_id):
        facts = (case.case_id, case.patient_id, case.site, case.missing, sorted(case.attributes.items()))
        files = [_digest_of(path, folder / FILES).hex() for path in _files(case)]
        digest.update(repr((*facts, files)).encode())
    return digest.hexdigest()


def images_sha256(cases: Sequence[Case], folder: Path) -> dict[str, str]:
    """The cases' names by the bytes of their images, wherever these lie; `folder` as above."""
    return {_digest_of(path, folder / FILES).hex(): case.case_id for case in cases for path in case.images}


def name_stored(prepared: PreprocessedCase) -> StoredCase:
    """Where a case that came from the cache lies."""
    assert prepared.folder is not None, prepared.case.case_id
    assert prepared.reading is not None, prepared.case.case_id
    case = prepared.case
    images, label = tuple(path.absolute() for path in case.images), case.label and case.label.absolute()
    return StoredCase(replace(case, images=images, label=label), prepared.reading, prepared.folder.absolute())


def load_stored(stored: StoredCase) -> PreprocessedCase | None:
    """The case, mapped; None where the cache is out of reach, or no longer holds it. Removes nothing."""
    try:
        return _read(stored.case, stored.reading, stored.folder)[0]
    except UNREADABLE:
        return None


def _prepare(case: Case, reading: Reading, folder: Path) -> tuple[PreprocessedCase, tuple[str, ...], bool]:
    """One case, its warnings, and whether its files had to be read."""
    if (stored := _load(case, reading, folder)) is not None:
        return *stored, False
    loaded = reading.load(case)
    prepared = replace(preprocess(loaded, reading.task), reading=reading)
    _store(prepared, loaded.warnings, folder)
    mapped = _load(case, reading, folder)  # so that a first start needs no more memory than a second one
    return (mapped[0] if mapped else prepared), loaded.warnings, True


def _case_key(case: Case, reading: Reading, memory: Path) -> str:
    """Key of a case: its name, the bytes of its files, and how they are read."""
    missing = f"|{case.missing}" if case.missing else ""
    digest = hashlib.sha256(f"{_settings_key(reading)}|{case.case_id}{missing}".encode())
    for path in _files(case):
        digest.update(_digest_of(path, memory))
    return digest.hexdigest()[:32]


def _digest_of(path: Path, memory: Path) -> bytes:
    try:
        return remembered_sha256(path, memory)
    except (OSError, ValueError):  # missing, or of a name that cannot be: reported when it is loaded
        return b"missing"


def _files(case: Case) -> Iterator[Path]:
    """Image and label files of a case, with the data files that headers name."""
    for path in (*case.images, case.label) if case.label is not None else case.images:
        yield path
        if path.suffix.lower() in _WITH_HEADERS:
            with contextlib.suppress(OSError):
                if data_file := data_file_of(path):
                    yield data_file


def _settings_key(reading: Reading) -> str:
    """What else decides the result of preprocessing."""
    task = reading.task
    settings = [PREPROCESSING_VERSION, task.spatial_dims, task.model_dump(mode="json", include=SETTINGS)]
    return json.dumps([*settings, reading.scanner.identity] if reading.scanner else settings)


def _store(prepared: PreprocessedCase, warnings: tuple[str, ...], folder: Path) -> None:
    """Write a case beside its place and rename it; it is on disk then."""
    record = _Record(prepared.geometry, prepared.original, prepared.label_voxels, warnings)
    beside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        beside.mkdir(parents=True)
        arrays = {name: np.ascontiguousarray(getattr(prepared, name)) for name in ARRAYS}
        write_synced(beside / "arrays.safetensors", safetensors.numpy.save(arrays))
        write_synced(beside / "case.json", json.dumps(asdict(record)).encode())
        beside.rename(folder)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        if not folder.is_dir():  # else another process was quicker with the same bytes
            raise UnusableFolderError(folder.parent, error.strerror or type(error).__name__) from error


def _load(case: Case, reading: Reading, folder: Path) -> tuple[PreprocessedCase, tuple[str, ...]] | None:
    """A stored case, or None where it is absent or damaged; a damaged one is removed."""
    try:
        return _read(case, reading, folder) if folder.is_dir() else None
    except UNREADABLE:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _read(case: Case, reading: Reading, folder: Path) -> tuple[PreprocessedCase, tuple[str, ...]]:
    """A stored case and its warnings. Raises what is UNREADABLE."""
    record = _RECORD.validate_json((folder / "case.json").read_bytes(), strict=True)
    arrays = _map_arrays(folder / "arrays.safetensors")
    if not arrays["image"].shape[1:] == arrays["label"].shape == record.geometry.shape:
        raise ValueError(f"arrays of other shapes than {record.geometry.shape}")
    prepared = PreprocessedCase(
        case=case,
        **arrays,
        geometry=record.geometry,
        original=record.original,
        label_voxels=record.label_voxels,
        reading=reading,
        folder=folder,
    )
    return prepared, record.warnings


def _map_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a case, memory-mapped and read-only.

    Through torch, whose mapping holds no file descriptor: NumPy's holds one an array, and a system that grants a
    process 256 or 1024 would be out of them after a few hundred cases.
    """
    tensors = safetensors.torch.load_file(path)
    arrays = {name: tensors[name].numpy() for name in ARRAYS}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written."""
    with contextlib.suppress(OSError):
        for leftover in folder.glob("*.tmp"):
            if time.time() - leftover.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(leftover, ignore_errors=True)
