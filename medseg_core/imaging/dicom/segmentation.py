"""A DICOM SEG becomes masks on the grid of its image: binary, fractional, overlapping, sparse or labelmap.

Each frame goes to the slice where it lies; slices without a frame are empty. Nothing is interpolated: a SEG whose
pixels are not the image's pixels is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg_core.dicom_errors import (
    DicomHeaderError,
    ForeignSegmentationError,
    SegmentationError,
)
from medseg_core.imaging.dicom.frames import Frame, frames_of, is_multi_frame
from medseg_core.imaging.dicom.grid import ANGLE_TOLERANCE
from medseg_core.imaging.dicom.headers import item, items, number, read_header, text
from medseg_core.imaging.dicom.pixels import stored_frames
from medseg_core.imaging.dicom.placement import (
    MAX_MASK_BYTES,
    NEAR,
    require_drawn_on,
    to_index,
)
from medseg_core.imaging.dicom.scan import Series
from medseg_core.imaging.dicom.segments import Code, Segment, Wanted, everything
from medseg_core.types import Geometry

_HALF = 0.5  # a fractional voxel belongs to its segment from here on


@dataclass(frozen=True)
class _Placed:
    """A frame with the slice that it belongs to and the segment it shows; None where pixels say which."""

    k: int
    segment: int | None


def read_segmentation(
    path: Path, reference: Geometry, *, drawn_on: Series | None = None, wanted: Wanted = everything
) -> tuple[Segment, ...]:
    """The segments of a SEG that are wanted, by their numbers, on the grid of `reference`, without a background.

    On a flat `reference`, an X-ray's, masks are flat, and size alone says whether pixels are the image's.
    A fractional segment is its mask from one half on. The file must be a drawing of `drawn_on`, if given.
    Raises DicomError leaves.
    """
    header = read_header(path)
    kind = text(header, "SegmentationType").upper()
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise SegmentationError(path, "it is no segmentation (SEG)")
    if not is_multi_frame(header):
        raise DicomHeaderError(path, "PerFrameFunctionalGroupsSequence", "is missing")
    require_drawn_on(header, path, drawn_on)
    described = _described(header, path)
    placed = tuple(_placed(header, path, reference, kind))
    if strange := {p.segment for p in placed} - {None, *described}:
        raise SegmentationError(path, f"its frames show {len(strange)} segment(s) that it does not describe")
    is_flat = len(reference.shape) == 2
    shape = (*reference.shape, 1) if is_flat else reference.shape
    asked = {
        n: one
        for n, one in described.items()
        if wanted(text(one, "SegmentLabel"), code.meaning if (code := _code(one, "Type", path)) else "")
    }
    if len(asked) * np.prod(shape, dtype=float) > MAX_MASK_BYTES:
        raise SegmentationError(path, f"its {len(asked)} segments are more than can be held at this size")
    masks = {number: np.zeros(shape[::-1], bool) for number in asked}  # (k, j, i)
    threshold = _threshold(header, path, kind)
    nothing = {0, int(number(header, "PixelPaddingValue", path) or 0)}  # of a labelmap
    for index, stored in stored_frames(path, len(placed)):
        at = placed[index]
        shown = _by_value(stored, nothing) if at.segment is None else {at.segment: stored >= threshold}
        for segment, mask in shown.items():
            if segment not in described:
                raise SegmentationError(
                    path, f"its pixels show segment {segment}, which it does not describe"
                )
            if segment in masks:
                masks[segment][at.k] = mask
    return tuple(
        Segment(
            n,
            text(one, "SegmentLabel"),
            masks[n][0].T if is_flat else masks[n].T,
            _code(one, "Category", path),
            _code(one, "Type", path),
        )
        for n, one in asked.items()
    )


def _described(header: Dataset, path: Path) -> dict[int, Dataset]:
    """Segments by number, background left out. Raises SegmentationError."""
    described: dict[int, Dataset] = {}
    for one in items(header, "SegmentSequence", path):
        found = number(one, "SegmentNumber", path)
        if found is None or found != int(found) or not 0 <= found < 2**16:
            raise DicomHeaderError(path, "SegmentNumber", "is missing or makes no sense")
        if int(found) in described:
            raise SegmentationError(path, f"it describes segment {int(found)} twice")
        described[int(found)] = one
    described.pop(0, None)
    if not described:
        raise SegmentationError(path, "it describes no segment")
    return dict(sorted(described.items()))


def _placed(header: Dataset, path: Path, reference: Geometry, kind: str) -> Iterator[_Placed]:
    """Every frame with its slice and its segment. Raises ForeignSegmentationError where one has no slice."""
    shared = item(header, "SharedFunctionalGroupsSequence", path)
    groups = items(header, "PerFrameFunctionalGroupsSequence", path)
    taken: set[tuple[int, int | None]] = set()
    for index, frame in enumerate(frames_of(header, path)):
        segment = None
        if kind != "LABELMAP":
            holder = groups[index] if "SegmentIdentificationSequence" in groups[index] else shared
            identified = item(holder, "SegmentIdentificationSequence", path)
            found = number(identified, "ReferencedSegmentNumber", path)
            if found is None:
                raise DicomHeaderError(path, "ReferencedSegmentNumber", "is missing")
            segment = int(found)
        k = _slice_of(frame, reference)
        if (k, segment) in taken:
            raise SegmentationError(path, "two of its frames show one segment in one slice")
        taken.add((k, segment))
        yield _Placed(k, segment)


def _slice_of(frame: Frame, reference: Geometry) -> int:
    """The slice whose pixels the frame's are, one for one. Raises ForeignSegmentationError."""
    plane, path = frame.plane, frame.path
    if (frame.columns, frame.rows) != reference.shape[:2]:
        sizes = f"{frame.columns}x{frame.rows} and {reference.shape[0]}x{reference.shape[1]}"
        raise ForeignSegmentationError(path, f"its frames and the image's slices have the sizes {sizes}")
    if len(reference.shape) == 2:
        return 0
    if plane.position_mm is None or plane.orientation is None:
        raise DicomHeaderError(path, "ImagePositionPatient or ImageOrientationPatient", "is missing")
    rotation = np.reshape(reference.direction, (3, 3))
    if not np.allclose(np.reshape(plane.orientation, (2, 3)).T, rotation[:, :2], atol=ANGLE_TOLERANCE):
        raise ForeignSegmentationError(path, "its frames lie in other planes than the image's slices")
    spacing = plane.spacing_mm
    if spacing is not None and not np.allclose(spacing[::-1], reference.spacing[:2], rtol=1e-3):
        raise ForeignSegmentationError(path, "its pixels have another spacing than the image's")
    index = to_index(np.asarray([plane.position_mm]), reference)[0]
    k = int(np.rint(index[2]))
    if abs(index - (0, 0, k)).max() > NEAR or not 0 <= k < reference.shape[2]:
        raise ForeignSegmentationError(path, "one of its frames lies where the image has no slice")
    return k


def _threshold(header: Dataset, path: Path, kind: str) -> float:
    """Stored values from here on belong to a segment; of labelmaps it means nothing."""
    if kind != "FRACTIONAL":
        return 1.0
    largest = number(header, "MaximumFractionalValue", path)
    if largest is None or largest <= 0:
        raise DicomHeaderError(path, "MaximumFractionalValue", "is missing or not positive")
    return _HALF * largest


def _by_value(stored: npt.NDArray[np.number], nothing: set[int]) -> dict[int, npt.NDArray[np.bool_]]:
    """The masks `(j, i)` of a labelmap's frame."""
    return {value: stored == value for value in np.unique(stored).tolist() if value not in nothing}


def _code(segment: Dataset, name: str, path: Path) -> Code | None:
    code = item(segment, f"SegmentedProperty{name}CodeSequence", path)
    value = text(code, "CodeValue")
    return Code(value, text(code, "CodingSchemeDesignator"), text(code, "CodeMeaning")) if value else None
