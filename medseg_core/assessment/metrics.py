"""How well one predicted label map agrees with the truth: overlaps, surface distances, volume.

Truth and prediction in, `LabelScores` for each foreground label out. Voxels that the truth marks IGNORE are
left out of both.

| | both empty | one empty |
| --- | --- | --- |
| dice, iou, precision, recall, surface_dice | 1 | 0, and `n_empty` is 1 |
| hd95 | 0 | diagonal of the image |
| volume_error | 0 | -1 without prediction, None without truth |
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage
from scipy.spatial import cKDTree

from medseg_core.types import IGNORE

ROUNDING = 1e-6  # of a millimetre or pixel: 3 voxels of 0.1 mm are within 0.3 mm whatever the floats say
DENSE = 10  # a tenth of the voxels: from here a distance transform beats a tree (measured in 2D and 3D)


@dataclass(frozen=True)
class LabelScores:
    """Agreement of prediction and truth for one label of one case. None: not defined for this case."""

    dice: float  # 2 TP / (2 TP + FP + FN), also called F1
    iou: float
    hd95_mm: float | None  # None for images without physical spacing
    hd95_px: float | None  # None for images with it
    surface_dice: float  # share of both surfaces within the tolerance of the other
    precision: float
    recall: float
    specificity: float  # over all voxels that are not IGNORE; 1 where there is no background
    volume_error: float | None  # (predicted - true) / true volume: negative means too small
    n_empty: int = 0  # 1 where exactly one of prediction and truth is empty


METRICS: tuple[str, ...] = tuple(field.name for field in fields(LabelScores) if field.name != "n_empty")
OPTIONAL_METRICS = ("hd95_mm", "hd95_px", "volume_error")  # the others are defined for every case


@dataclass(frozen=True)
class _Grid:
    """What surface distances are measured with."""

    spacing: tuple[float, ...]  # mm or px
    tolerance: float
    diagonal: float
    is_physical: bool


@dataclass(frozen=True)
class _Surfaces:
    hd95: float
    dice: float


def score_case(
    prediction: UInt8[np.ndarray, "*s"],
    truth: UInt8[np.ndarray, "*s"],
    *,
    labels: Sequence[str],
    spacing_mm: tuple[float, ...] | None,
    tolerance_mm: float = 1.0,
) -> dict[str, LabelScores]:
    """Scores of each label; the maps hold 0 background, 1.. in the order of `labels`, IGNORE in the truth.

    Without `spacing_mm` distances and tolerance are pixels. Memory grows with the surfaces, not the image.
    """
    assert prediction.shape == truth.shape, (prediction.shape, truth.shape)
    assert spacing_mm is None or len(spacing_mm) == truth.ndim, (spacing_mm, truth.shape)
    spacing = spacing_mm or (1.0,) * truth.ndim
    diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing)))
    grid = _Grid(spacing, tolerance_mm, diagonal, spacing_mm is not None)
    prediction, truth, n_voxels = _without_ignored(prediction, truth)
    boxes = _bounding_boxes(prediction, truth, len(labels))
    return {
        label: _score_label(prediction[box] == value, truth[box] == value, n_voxels, grid)
        for value, (label, box) in enumerate(zip(labels, boxes, strict=True), start=1)
    }


def _without_ignored(
    prediction: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], int]:
    """Both maps with background where the truth is IGNORE, and how many voxels are left."""
    counted = truth != IGNORE
    n_counted = int(np.count_nonzero(counted))
    if n_counted == truth.size:
        return prediction, truth, n_counted
    return prediction * counted, truth * counted, n_counted


def _bounding_boxes(
    prediction: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], n_labels: int
) -> list[tuple[slice, ...]]:
    """For each label the box that holds it in both maps; an empty box where it is in neither."""
    nowhere = (slice(0, 0),) * truth.ndim
    pairs = zip(
        ndimage.find_objects(prediction, n_labels), ndimage.find_objects(truth, n_labels), strict=True
    )
    return [_union(a, b) if a and b else a or b or nowhere for a, b in pairs]


def _union(a: tuple[slice, ...], b: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))


def _score_label(
    prediction: Bool[np.ndarray, "*b"], truth: Bool[np.ndarray, "*b"], n_voxels: int, grid: _Grid
) -> LabelScores:
    """Scores of one label from its masks, cut to the box around them; `n_voxels` counts the whole image."""
    n_predicted, n_true = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    hits = int(np.count_nonzero(prediction & truth))
    n_either = n_predicted + n_true - hits
    surfaces = _compare_surfaces(prediction, truth, grid) if n_predicted and n_true else None
    one_is_empty = bool(n_predicted) != bool(n_true)
    hd95 = surfaces.hd95 if surfaces else grid.diagonal * one_is_empty
    return LabelScores(
        dice=2 * hits / (n_predicted + n_true) if n_either else 1.0,
        iou=hits / n_either if n_either else 1.0,
        hd95_mm=hd95 if grid.is_physical else None,
        hd95_px=None if grid.is_physical else hd95,
        surface_dice=surfaces.dice if surfaces else float(not one_is_empty),
        precision=hits / n_predicted if n_predicted else float(not n_true),
        recall=hits / n_true if n_true else float(not n_predicted),
        specificity=(n_voxels - n_either) / (n_voxels - n_true) if n_voxels > n_true else 1.0,
        volume_error=(n_predicted - n_true) / n_true if n_true else (None if n_predicted else 0.0),
        n_empty=int(one_is_empty),
    )


def _compare_surfaces(
    prediction: Bool[np.ndarray, "*b"], truth: Bool[np.ndarray, "*b"], grid: _Grid
) -> _Surfaces:
    """HD95 (the larger of the two directed 95th percentiles) and surface Dice of two non-empty masks.

    Source: Nikolov et al. 2018 (arXiv:1809.04430), with surface voxels as the elements, as MONAI counts.
    """
    predicted_surface, true_surface = _surface(prediction), _surface(truth)
    to_truth = _distances(predicted_surface, true_surface, grid.spacing)
    to_prediction = _distances(true_surface, predicted_surface, grid.spacing)
    near = sum(int(np.count_nonzero(d <= grid.tolerance + ROUNDING)) for d in (to_truth, to_prediction))
    return _Surfaces(
        hd95=float(max(np.quantile(to_truth, 0.95), np.quantile(to_prediction, 0.95))),
        dice=near / (len(to_truth) + len(to_prediction)),
    )


def _surface(mask: Bool[np.ndarray, "*b"]) -> Bool[np.ndarray, "*b"]:
    """Voxels of the mask with a face neighbour outside it, or at the edge of the box."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        source, target = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        target[1:] &= source[:-1]
        target[:-1] &= source[1:]
        target[[0, -1]] = False
    return np.asarray(mask & ~inside)


def _distances(
    from_surface: Bool[np.ndarray, "*b"], to_surface: Bool[np.ndarray, "*b"], spacing: tuple[float, ...]
) -> Float[np.ndarray, " n"]:
    """Distance of each voxel of one surface to the nearest of the other, in no particular order."""
    distances = np.zeros(np.count_nonzero(from_surface))
    apart = np.argwhere(from_surface & ~to_surface)  # the others are at distance 0
    if len(apart) * DENSE > to_surface.size:
        nearest = _nearest_by_transform(apart, to_surface, spacing)
        distances[: len(apart)] = np.linalg.norm((apart - nearest) * spacing, axis=1)
    elif len(apart):
        tree = cKDTree(np.argwhere(to_surface) * spacing, balanced_tree=False, compact_nodes=False)
        distances[: len(apart)] = tree.query(apart * spacing)[0]
    return distances


def _nearest_by_transform(
    points: Int[np.ndarray, "n d"], surface: Bool[np.ndarray, "*b"], spacing: tuple[float, ...]
) -> Int[np.ndarray, "n d"]:
    """Surface voxel nearest to each point; for noise that is nearly all surface (an untrained network)."""
    indices = ndimage.distance_transform_edt(
        ~surface, sampling=spacing, return_distances=False, return_indices=True
    )
    return np.asarray(indices[:, *points.T].T)
