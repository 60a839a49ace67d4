"""Sizes of the structures in a label map: volume, and the longest diameters.

A voxel counts as the whole box that it is, so a diameter runs between corners of voxels: one voxel of 1 mm has the
diameter of a cube's diagonal, 1.73 mm, and no structure measures 0.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, UInt8
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from medseg_core.types import Geometry

Corners = Float64[np.ndarray, "n d"]


@dataclass(frozen=True)
class Measurements:
    """One structure; lengths are None where it is not there or the image knows no millimetres."""

    voxels: int
    volume_ml: float | None  # None for a 2D image, too
    longest_diameter_mm: float | None  # between any two points of it
    longest_slice_diameter_mm: float | None  # within one slice of the image, as RECIST 1.1 measures

    def to_json(self) -> dict[str, float | int | None]:
        """By name."""
        return asdict(self)


def measure(
    labels: UInt8[np.ndarray, "*s"], geometry: Geometry, names: Mapping[str, int]
) -> dict[str, Measurements]:
    """The structures of a label map `(i, j[, k])` by name; `names` gives the value of each."""
    return {name: _measure(labels == value, geometry.spacing_mm) for name, value in names.items()}


def _measure(mask: npt.NDArray[np.bool_], spacing_mm: tuple[float, ...] | None) -> Measurements:
    n_voxels = int(np.count_nonzero(mask))
    if spacing_mm is None or (mask.ndim == 3 and len(spacing_mm) != 3):
        return Measurements(n_voxels, None, None, None)
    volume_ml = n_voxels * float(np.prod(spacing_mm)) / 1000 if mask.ndim == 3 else None
    if n_voxels == 0:
        return Measurements(0, volume_ml, None, None)
    slices = [mask[..., k] for k in np.flatnonzero(mask.any(axis=(0, 1)))] if mask.ndim == 3 else [mask]
    in_slices = [_longest(_corners(one), spacing_mm[:2]) for one in slices]
    whole = _longest(_corners(mask), spacing_mm) if mask.ndim == 3 else max(in_slices)
    return Measurements(n_voxels, volume_ml, whole, max(in_slices))


def _corners(mask: npt.NDArray[np.bool_]) -> Corners:
    """Corners of the voxels that end a row along the first axis, in voxels: no other corner is an extreme point."""
    rows = np.argwhere(mask.any(axis=0))
    lines = mask[(slice(None), *rows.T)]  # (i, row)
    first = lines.argmax(axis=0)
    last = len(mask) - lines[::-1].argmax(axis=0)
    ends = np.concatenate([np.column_stack([first, rows]), np.column_stack([last, rows])])
    shifts = np.stack(np.meshgrid([0], *[[0, 1]] * (mask.ndim - 1), indexing="ij"), -1).reshape(-1, mask.ndim)
    return np.unique((ends[:, None] + shifts).reshape(-1, mask.ndim), axis=0).astype(np.float64)


def _longest(corners: Corners, spacing_mm: tuple[float, ...]) -> float:
    """The largest distance between two corners, in mm: between vertices of their convex hull."""
    points = corners * np.asarray(spacing_mm)
    return float(pdist(points[ConvexHull(points).vertices]).max())
