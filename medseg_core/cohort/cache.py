"""Preprocessed cases on disk, keyed by content and settings, memory-mapped.

One folder a case, written beside and renamed: it is whole or absent. A changed file, task or arithmetic has another
key, so nothing is ever stale; what is no longer asked for can be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medseg_core.cohort.loading import load_case
from medseg_core.cohort.preprocess import PREPROCESSING_VERSION, PreprocessedCase, preprocess
from medseg_core.config import Task
from medseg_core.errors import DataError, UnusableFolderError
from medseg_core.types import Case, Geometry

ARRAYS = ("image", "label", "foreground")
SETTINGS = {
    "channels",
    "labels",
    "ignore_value",
    "spacing_mm",
    "longest_side_px",
    "orientation",
    "foreground_crop",
}


@dataclass(frozen=True)
class CacheFault:
    """A case that could not be prepared, and why."""

    case: Case
    error: DataError


@dataclass(frozen=True)
class Prepared:
    """What became of a list of cases."""

    cases: dict[str, PreprocessedCase]  # by case_id
    faults: tuple[CacheFault, ...]
    warnings: tuple[str, ...]
    n_read: int  # cases that were not in the cache


def prepare_cases(
    cases: Sequence[Case],
    task: Task,
    folder: Path,
    *,
    threads: int,
    on_case: Callable[[], None] = lambda: None,
) -> Prepared:
    """Every case preprocessed: from the cache, or opened, checked and stored there. Order of `cases` is kept."""
    settings = _settings_key(task)

    def prepare(case: Case) -> tuple[PreprocessedCase | DataError, tuple[str, ...], bool]:
        try:
            return _prepare(case, task, folder / _case_key(case, settings))
        except DataError as error:
            return error, (), True
        finally:
            on_case()

    with ThreadPoolExecutor(max_workers=threads) as pool:
        results = list(pool.map(prepare, cases))
    paired = list(zip(cases, results, strict=True))
    return Prepared(
        cases={case.case_id: got for case, (got, _, _) in paired if isinstance(got, PreprocessedCase)},
        faults=tuple(CacheFault(case, got) for case, (got, _, _) in paired if isinstance(got, DataError)),
        warnings=tuple(text for _, (_, texts, _) in paired for text in texts),
        n_read=sum(fresh for _, (_, _, fresh) in paired),
    )


def _prepare(case: Case, task: Task, folder: Path) -> tuple[PreprocessedCase, tuple[str, ...], bool]:
    """One case, its warnings, and whether its files had to be read."""
    if (stored := _load(case, folder)) is not None:
        return *stored, False
    loaded = load_case(case, task)
    prepared = preprocess(loaded, task)
    _store(prepared, loaded.warnings, folder)
    return prepared, loaded.warnings, True


def _case_key(case: Case, settings: str) -> str:
    """Key of a case: its name, the bytes of its files, and the settings."""
    digest = hashlib.sha256(f"{settings}|{case.case_id}".encode())
    for path in _files(case):
        with (
            contextlib.suppress(OSError),
            path.open("rb") as file,
        ):  # a missing file is reported when it is loaded
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _files(case: Case) -> Iterable[Path]:
    """Image and label files of a case."""
    return (*case.images, case.label) if case.label is not None else case.images


def _settings_key(task: Task) -> str:
    """What else decides the result of preprocessing."""
    return json.dumps(
        [PREPROCESSING_VERSION, task.spatial_dims, task.model_dump(mode="json", include=SETTINGS)]
    )


def _store(prepared: PreprocessedCase, warnings: tuple[str, ...], folder: Path) -> None:
    """Write a case beside its place and rename it."""
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(beside / f"{name}.npy", getattr(prepared, name))
        record = {
            "geometry": asdict(prepared.geometry),
            "original": asdict(prepared.original),
            "label_voxels": prepared.label_voxels,
            "warnings": warnings,
        }
        (beside / "case.json").write_text(json.dumps(record))
        beside.rename(folder)
    except FileExistsError:  # another process was quicker with the same bytes
        shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        if folder.is_dir():
            return
        raise UnusableFolderError(folder.parent, error.strerror or type(error).__name__) from error


def _load(case: Case, folder: Path) -> tuple[PreprocessedCase, tuple[str, ...]] | None:
    """A stored case, or None where it is absent or damaged."""
    try:
        record = json.loads((folder / "case.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    except (OSError, ValueError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    prepared = PreprocessedCase(
        case=case,
        **arrays,
        geometry=_geometry(record["geometry"]),
        original=_geometry(record["original"]),
        label_voxels=tuple(record["label_voxels"]),
    )
    return prepared, tuple(record["warnings"])


def _geometry(record: dict[str, list[float] | None]) -> Geometry:
    """A Geometry from its JSON form."""
    return Geometry(**{name: None if v is None else tuple(v) for name, v in record.items()})  # type: ignore[arg-type]
