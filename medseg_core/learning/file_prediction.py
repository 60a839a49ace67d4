"""From image files to label files by a trained model.

Cases without labels in, label maps on the grid of their images out, in the values that the task's label files use.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg_core.cohort.labels import file_values
from medseg_core.cohort.loading import load_case
from medseg_core.cohort.preprocess import PreprocessedCase, preprocess
from medseg_core.config import Task
from medseg_core.errors import DataError, OutputExistsError, SameOutputError, SegmentationMemoryError
from medseg_core.files import write_atomic
from medseg_core.imaging.io import file_suffix, with_slice_axis, write_image
from medseg_core.imaging.pictures import PICTURE_SUFFIXES
from medseg_core.learning.model_package import LoadedModel
from medseg_core.learning.prediction import LabelMap, segment_original
from medseg_core.learning.scope import range_faults, window_faults
from medseg_core.learning.uncertainty import Uncertainty, on_file, uncertainty_of
from medseg_core.types import Case, Geometry

LIST = "predictions.json"
MAPS = ("entropy", "disagreement")
CPU_PHRASES = (
    "can't allocate memory",
    "not enough memory",
)  # of torch's allocator, which has no error of its own


@dataclass(frozen=True)
class Segmentation:
    """What a model sees in one case."""

    case: Case
    labels: LabelMap  # (i, j[, k]): 0 background, 1.. in the order of the task's labels
    geometry: Geometry  # of the image file
    uncertainty: Uncertainty | None = None  # maps (i, j[, k]); None: not asked for
    outside: tuple[str, ...] = ()  # how the case differs from the training cases, a phrase each; if asked for


def image_case(images: Sequence[Path | None]) -> Case:
    """A case of image files alone, one for each channel or one for all, named after the first; None is missing."""
    files = tuple(image for image in images if image is not None)
    name = files[0].name
    stem = name[: len(name) - len(file_suffix(files[0]))]
    missing = tuple(n for n, image in enumerate(images) if image is None)
    return Case(stem or name, "", "", files, None, missing=missing)


def segment_files(
    model: LoadedModel,
    cases: Sequence[Case],
    folder: Path,
    *,
    on_case: Callable[[], None] = lambda: None,
    with_uncertainty: bool = False,
) -> tuple[DataError, ...]:
    """Segment each case into `folder`, with a list `predictions.json`; returns the faults of those that do not serve.

    `with_uncertainty` adds maps of entropy and disagreement, and to the list how far each case is to be trusted.
    A file is written whole or not at all, and replaces none: raises OutputExistsError, SameOutputError before
    anything is computed. Raises UnusableFolderError, SegmentationMemoryError.
    """
    task = model.experiment.task
    faults: list[DataError] = []
    done: list[dict[str, Any]] = []
    maps = MAPS if with_uncertainty else ()
    _require_new(cases, folder, task, maps)
    for case in cases:
        try:
            found = segment_case(model, case, with_uncertainty=with_uncertainty)
            path = write_segmentation(folder, found, task)
            for name in maps:
                _write_map(folder, found, name)
            done.append(_described(found, path, task) | _trust(found, model, maps))
            _write_list(folder, model, done)
        except DataError as fault:
            faults.append(fault)
        on_case()
    return tuple(faults)


def segment_case(model: LoadedModel, case: Case, *, with_uncertainty: bool = False) -> Segmentation:
    """The segmentation of a case's image files on their grid; a label file is not looked at.

    Raises CaseError leaves for files that do not serve, SegmentationMemoryError.
    """
    loaded = load_case(replace(case, label=None), model.experiment.task, needs_label=False)
    prepared = preprocess(loaded, model.experiment.task)
    labels = segment_prepared(model, prepared)
    if not with_uncertainty:
        return Segmentation(case, labels, prepared.original)
    with memory_guard(prepared, next(model.network.parameters()).device):
        found = on_file(uncertainty_of([model.network], prepared, model.experiment), prepared)
    task = model.experiment.task
    outside = (*window_faults(prepared, task), *range_faults(prepared, model.provenance.scope, task))
    return Segmentation(case, labels, prepared.original, found, outside)


def segment_prepared(model: LoadedModel, case: PreprocessedCase) -> LabelMap:
    """Label map of a preprocessed case on the grid of its file. Raises SegmentationMemoryError."""
    with memory_guard(case, next(model.network.parameters()).device):
        return segment_original(model.network, case, model.experiment)


def write_segmentation(folder: Path, found: Segmentation, task: Task) -> Path:
    """Write a label map in the values of the task's label files, whole or not at all; returns its path.

    Raises UnusableFolderError.
    """
    path = folder / output_name(found.case, task)
    grid = with_slice_axis(found.geometry, found.case.images[0])
    write_image(path, file_values(task)[found.labels].reshape(grid.shape), grid)
    return path


def output_name(case: Case, task: Task) -> str:
    """File of a case's segmentation: NIfTI; for pictures, which know no millimetres, PNG, for stacks of them TIFF."""
    if file_suffix(case.images[0]) not in PICTURE_SUFFIXES:
        suffix = ".nii.gz"
    else:
        suffix = ".png" if task.spatial_dims == 2 else ".tif"
    return f"{case.case_id}_segmentation{suffix}"


def _map_name(case: Case, name: str) -> str:
    """File of a map: NIfTI, also of a picture, for PNG holds no fractions."""
    return f"{case.case_id}_{name}.nii.gz"


def _write_map(folder: Path, found: Segmentation, name: str) -> None:
    grid = with_slice_axis(found.geometry, found.case.images[0])
    write_image(
        folder / _map_name(found.case, name), getattr(found.uncertainty, name).reshape(grid.shape), grid
    )


def _trust(found: Segmentation, model: LoadedModel, maps: Sequence[str]) -> dict[str, Any]:
    """What the list says of how far a case is to be trusted; nothing where that was not asked for."""
    if found.uncertainty is None:
        return {}
    score, scope = found.uncertainty.score, model.provenance.scope
    threshold = scope.threshold if scope else None
    return {
        "uncertainty": {
            "score": score,
            "threshold": threshold,
            "flagged": None if threshold is None else score > threshold,
            "outside_training": list(found.outside),
            "maps": [_map_name(found.case, name) for name in maps],
        }
    }


def _require_new(cases: Sequence[Case], folder: Path, task: Task, maps: Sequence[str]) -> None:
    """Each case has a file of its own, and nothing lies there yet."""
    owners: dict[str, Case] = {}
    for case in cases:
        name = output_name(case, task)
        if (other := owners.setdefault(name.lower(), case)) is not case:
            raise SameOutputError(other.images[0], case.images[0], name)
    maps_of = (_map_name(case, name) for case in cases for name in maps)
    for name in (LIST, *(output_name(case, task) for case in cases), *maps_of):
        if (folder / name).exists():
            raise OutputExistsError(folder / name)


def _described(found: Segmentation, path: Path, task: Task) -> dict[str, Any]:
    """One entry of the list: files by name, and the size of each label."""
    sizes = np.bincount(found.labels.ravel(), minlength=task.n_classes)
    values, spacing = file_values(task), found.geometry.spacing_mm
    voxel_ml = float(np.prod(spacing)) / 1000 if spacing is not None and len(spacing) == 3 else None
    return {
        "images": [image.name for image in found.case.images],
        "segmentation": path.name,
        "labels": {
            label: {
                "value": int(values[n]),
                "voxels": int(sizes[n]),
                "volume_ml": None if voxel_ml is None else float(sizes[n]) * voxel_ml,
            }
            for n, label in enumerate(task.labels, start=1)
        },
    }


def _write_list(folder: Path, model: LoadedModel, done: list[dict[str, Any]]) -> None:
    document = {
        "notice": "Research use only, not a medical device.",
        "model": model.identity,
        "predictions": done,
    }
    write_atomic(folder / LIST, json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")


@contextmanager
def memory_guard(case: PreprocessedCase, device: torch.device) -> Iterator[None]:
    """Turn what allocators say into a sentence."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise SegmentationMemoryError(case.case.case_id, case.image.shape[1:], str(device)) from None
    except RuntimeError as error:
        if not any(phrase in str(error) for phrase in CPU_PHRASES):
            raise
        raise SegmentationMemoryError(case.case.case_id, case.image.shape[1:], str(device)) from None
