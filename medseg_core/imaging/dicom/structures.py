"""Contours of an RTSTRUCT become masks on the grid of their image.

A voxel belongs to a structure where its centre lies inside an odd number of the contours of its slice: a contour
within another is a hole, two apart are two parts. Keyhole contours, which cut into a hole along a line, come out alike.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg_core.dicom_errors import DicomHeaderError, ForeignSegmentationError, SegmentationError
from medseg_core.imaging.dicom.headers import decoding, items, number, read_header, text
from medseg_core.imaging.dicom.placement import (
    MAX_MASK_BYTES,
    NEAR,
    require_drawn_on,
    require_volume,
    to_index,
)
from medseg_core.imaging.dicom.scan import Series
from medseg_core.imaging.dicom.segments import Segment, Wanted, everything
from medseg_core.types import Geometry

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")  # others are points and lines, which hold no voxel
_CORNERS = 3  # of a polygon; planning systems leave scraps of one or two points, which hold no voxel either


def read_structures(
    path: Path, reference: Geometry, *, drawn_on: Series | None = None, wanted: Wanted = everything
) -> tuple[Segment, ...]:
    """The structures of an RTSTRUCT that are wanted, in its order; those without contours are empty, and not lost.

    They lie on the grid of `reference`. The file must be a drawing of `drawn_on`, if given; contours of what is not
    wanted, such as a couch beyond the image, are not looked at. Raises DicomError leaves.
    """
    require_volume(reference, path)
    header = read_header(path)
    if "StructureSetROISequence" not in header:
        raise SegmentationError(path, "it is no set of structures (RTSTRUCT)")
    require_drawn_on(header, path, drawn_on)
    names = _names(header, path)
    asked = {n: name for n, name in names.items() if wanted(name, "")}
    if len(asked) * np.prod(reference.shape, dtype=float) > MAX_MASK_BYTES:
        raise SegmentationError(path, f"its {len(asked)} structures are more than can be held at this size")
    masks = {n: np.zeros(reference.shape[::-1], bool) for n in asked}  # (k, j, i)
    contoured: set[int] = set()
    for one in items(header, "ROIContourSequence", path):
        n = _number(one, "ReferencedROINumber", path)
        if n not in names:
            raise SegmentationError(path, "it has contours of a structure that it does not name")
        if n in masks:
            _draw(one, masks[n], reference, path)
            contoured |= {n} if items(one, "ContourSequence", path) else set()
    return tuple(
        Segment(n, name, masks[n].T, is_lost=n in contoured and not masks[n].any())
        for n, name in asked.items()
    )


def _draw(structure: Dataset, mask: npt.NDArray[np.bool_], reference: Geometry, path: Path) -> None:
    """Fill the contours of a structure; one that is repeated counts once."""
    drawn: set[bytes] = set()
    for contour in items(structure, "ContourSequence", path):
        if text(contour, "ContourGeometricType").upper() in _CLOSED:
            points = _points_mm(contour, path)
            if len(points) >= _CORNERS and (same := points.tobytes()) not in drawn:
                drawn.add(same)
                _fill(mask, points, reference, path)


def _names(header: Dataset, path: Path) -> dict[int, str]:
    """Structures by number. Raises SegmentationError."""
    names: dict[int, str] = {}
    for one in items(header, "StructureSetROISequence", path):
        n = _number(one, "ROINumber", path)
        if n in names:
            raise SegmentationError(path, f"it names structure {n} twice")
        names[n] = text(one, "ROIName")
    if not names:
        raise SegmentationError(path, "it names no structure")
    return names


def _number(one: Dataset, keyword: str, path: Path) -> int:
    found = number(one, keyword, path)
    if found is None:
        raise DicomHeaderError(path, keyword, "is missing")
    return int(found)


def _points_mm(contour: Dataset, path: Path) -> npt.NDArray[np.float64]:
    """The corners of a contour `(n, 3)`. Raises SegmentationError."""
    stored = contour.get_item("ContourData")
    with decoding(path, "its contours are not numbers"):  # as bytes: pydicom makes an object of each number
        value = stored.value if stored is not None else b""
        words = value.split(b"\\") if isinstance(value, bytes) else [*(value or ())]
        numbers = np.asarray(words if any(words) else [], np.float64)
    if not numbers.size or numbers.size % 3 or not np.isfinite(numbers).all():
        raise SegmentationError(path, "one of its contours is no polygon")
    claimed = number(contour, "NumberOfContourPoints", path)
    if claimed is not None and claimed * 3 != numbers.size:
        fault = f"one of its contours has {numbers.size // 3} points and claims {claimed:g}"
        raise SegmentationError(path, fault)
    return numbers.reshape(-1, 3)


def _fill(
    mask: npt.NDArray[np.bool_], points_mm: npt.NDArray[np.float64], reference: Geometry, path: Path
) -> None:
    """Turn the voxels inside a contour, `mask` being `(k, j, i)`; what is beyond the image's edge is cut.

    Raises ForeignSegmentationError.
    """
    at = to_index(points_mm, reference)
    k = int(np.rint(at[:, 2].mean()))
    if abs(at[:, 2] - k).max() > NEAR:
        raise ForeignSegmentationError(path, "one of its contours does not lie in a slice of the image")
    if not 0 <= k < len(mask):
        raise ForeignSegmentationError(path, "one of its contours lies where the image has no slice")
    last = np.asarray(reference.shape[:2]) - 1
    if (at[:, :2].max(axis=0) < 0).any() or (at[:, :2].min(axis=0) > last).any():
        raise ForeignSegmentationError(path, "one of its contours lies outside the image")
    mask[k] ^= inside(at[:, :2], mask.shape[1:])


def inside(corners: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The pixels `(j, i)` whose centre lies in a polygon `(n, 2)` of columns and rows, by the even-odd rule.

    Each edge turns the pixels to the right of it in the rows that it crosses; an edge on a centre counts as left of it.
    """
    ends = np.roll(corners, -1, axis=0)
    low, high = np.sort(np.stack([corners[:, 1], ends[:, 1]]).clip(-1, shape[0]), axis=0)
    first, beyond = np.ceil(np.stack([low, high]).clip(0, shape[0])).astype(int)
    n_rows = beyond - first
    edge = np.repeat(np.arange(len(corners)), n_rows)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows) + first[edge]
    slope = (ends - corners)[edge]
    column = corners[edge, 0] + (row - corners[edge, 1]) * slope[:, 0] / slope[:, 1]
    turned = np.zeros((shape[0], shape[1] + 1), np.int64)
    np.add.at(turned, (row, np.ceil(column.clip(0, shape[1])).astype(int)), 1)
    return np.asarray(turned.cumsum(axis=1)[:, :-1] % 2 == 1)
