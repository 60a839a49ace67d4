"""What the page is told of a case, as JSON: its grid and layers, its labels, scores, and where there is something."""

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg_client.review.labels import LabelMap, Labels
from medseg_client.review.pictures import Layer, Picture
from medseg_core.assessment.metrics import score_case
from medseg_core.cohort.labels import count_values
from medseg_core.types import IGNORE, Geometry

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the axis that each looks along
FLAT = "image"  # the plane of a 2D image


def planes_of(grid: Geometry) -> dict[str, int | None]:
    """The planes of a grid and the axis that each looks along: of a volume those that are more than a line."""
    if len(grid.shape) == 2:
        return {FLAT: None}
    sides = {
        name: [n for other, n in enumerate(grid.shape) if other != axis] for name, axis in PLANES.items()
    }
    wide: dict[str, int | None] = {name: PLANES[name] for name, side in sides.items() if min(side) > 1}
    return wide or {"axial": 2}


def describe_picture(picture: Picture) -> dict[str, Any]:
    """Grid, planes and layers."""
    grid = picture.grid
    return {
        "shape": grid.shape,
        "spacing": grid.spacing,
        "unit": "px" if grid.spacing_mm is None else "mm",
        "origin": grid.origin_mm,
        "direction": grid.direction,
        "planes": planes_of(grid),
        "layers": [_describe_layer(layer) for layer in picture.layers],
    }


def _describe_layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "modality": layer.modality,
        "type": layer.voxels.dtype.name,
        "colour": layer.is_colour,
        "extremes": layer.extremes,
        "window": layer.extremes if layer.is_colour else layer.spread,
    }


def describe_labels(found: Labels, grid: Geometry) -> dict[str, Any]:
    """Names, scores, the extent of each map along each axis and a voxel to look at first."""
    return {
        "names": found.names,
        "truth": found.truth is not None,
        "prediction": found.prediction is not None,
        "comparable": found.is_comparable,
        "entropy": None if found.entropy is None else float(found.entropy.max()),
        "scores": scores_of(found, grid),
        "along": [_along(found, axis) for axis in range(len(grid.shape))],
        "start": _start(found, grid),
    }


def scores_of(found: Labels, grid: Geometry) -> dict[str, Any]:
    """The mean Dice, and of each label its volumes and, where there are both maps, how they agree."""
    compared = {}
    if found.truth is not None and found.prediction is not None and found.names and found.is_comparable:
        compared = score_case(found.prediction, found.truth, labels=found.names, spacing_mm=grid.spacing_mm)
    sizes = {
        what: count_values(labels)
        for what, labels in (("truth", found.truth), ("prediction", found.prediction))
        if labels is not None
    }
    size, unit = _voxel(grid)
    rows = []
    for number, name in enumerate(found.names, start=1):
        scores = compared.get(name)
        row: dict[str, Any] = {"name": name, "dice": None, "hd95": None, "volume_error": None}
        if scores is not None:
            hd95 = scores.hd95_px if grid.spacing_mm is None else scores.hd95_mm
            row |= {"dice": scores.dice, "hd95": hd95, "volume_error": scores.volume_error}
        rows.append(row | {what: counts.get(number, 0) * size for what, counts in sizes.items()})
    dice = float(np.mean([scores.dice for scores in compared.values()])) if compared else None
    return {"unit": unit, "dice": dice, "labels": rows}


def _voxel(grid: Geometry) -> tuple[float, str]:
    """Size of a voxel, and in what."""
    if grid.spacing_mm is None:
        return 1.0, "px" if len(grid.shape) == 2 else "voxels"
    size = float(np.prod(grid.spacing_mm))
    return (size, "mm²") if len(grid.shape) == 2 else (size / 1000, "mL")


def _along(found: Labels, axis: int) -> dict[str, list[int]]:
    """Of each slice along an axis, how many voxels each map holds and in how many they differ."""
    counted: dict[str, npt.NDArray[np.bool_]] = {}
    if found.truth is not None:
        counted["truth"] = _foreground(found.truth)
    if found.prediction is not None:
        counted["prediction"] = _foreground(found.prediction)
    if found.truth is not None and found.prediction is not None and found.is_comparable:
        counted["differs"] = (found.truth != found.prediction) & (found.truth != IGNORE)
    others = tuple(n for n in range(len(next(iter(counted.values())).shape)) if n != axis) if counted else ()
    return {what: np.count_nonzero(mask, axis=others).tolist() for what, mask in counted.items()}


def _start(found: Labels, grid: Geometry) -> list[int]:
    """The middle of the largest axial slice of the truth, else of the prediction; else the middle of the grid."""
    for labels in (found.truth, found.prediction):
        if labels is None or not (mask := _foreground(labels)).any():
            continue
        k = int(np.count_nonzero(mask, axis=(0, 1)).argmax()) if mask.ndim == 3 else None
        flat = mask if k is None else mask[:, :, k]
        centre = [int(places.mean()) for places in np.nonzero(flat)]
        return centre if k is None else [*centre, k]
    return [n // 2 for n in grid.shape]


def _foreground(labels: LabelMap) -> npt.NDArray[np.bool_]:
    return np.asarray((labels > 0) & (labels != IGNORE))
