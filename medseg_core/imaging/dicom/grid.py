"""The planes of a series become one grid, or the reason why they do not.

Slices are ordered by where they lie along their normal; number and thickness of a slice are not asked.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg_core.dicom_errors import (
    DicomHeaderError,
    MixedSeriesError,
    RepeatedSliceError,
    SliceSpacingError,
    TiltedSeriesError,
    TooLargeDicomError,
)
from medseg_core.imaging.dicom.frames import Frame
from medseg_core.imaging.integrity import MAX_VOXELS
from medseg_core.types import Geometry

ANGLE_TOLERANCE = 1e-3  # of direction cosines, which headers round: 0.06 degrees
SLICE_TOLERANCE = 0.1  # of the step between slices that one may lie off: some headers round to 0.1 mm
SIDEWAYS_TOLERANCE = 0.5  # of a pixel: direction cosines of three digits drift so far over a body
POSITION_TOLERANCE_MM = 0.01  # closer slices lie at one place
_SAME_SPACING = 1e-4
_FARTHEST_MM = 1e6  # from the origin; a table is moved by metres
_SPACINGS_MM = 1e-4, 1e3  # of a voxel, from a microscope's to a whole-body scout's


def grid_of(frames: Sequence[Frame], where: str) -> tuple[Geometry, tuple[Frame, ...]]:
    """The 3D grid of a series, and its frames in the order of `k`. Raises DicomError leaves."""
    first = frames[0]
    rotation = _rotation(first, where)
    for frame in frames[1:]:
        _require_alike(first, frame, where)
    if len(frames) * first.rows * first.columns > MAX_VOXELS:
        size = f"{first.columns}x{first.rows}x{len(frames)}"
        raise TooLargeDicomError(where, f"it claims {size} pixels, more than can be held")
    positions = np.asarray([_position(frame) for frame in frames])
    heights = positions @ rotation[:, 2]
    order = np.argsort(heights, kind="stable")
    positions, heights = positions[order], heights[order]
    step = _step(heights, first, where)
    _require_straight(positions, rotation, first, where)
    between_rows, between_columns = _in_plane_spacing(first)
    if step > _SPACINGS_MM[1]:
        raise DicomHeaderError(where, "ImagePositionPatient", f"is {step:g} mm from one slice to the next")
    geometry = Geometry(
        (first.columns, first.rows, len(frames)),
        (between_columns, between_rows, step),
        tuple(positions[0].tolist()),
        tuple(rotation.ravel().tolist()),
    )
    return geometry, tuple(frames[n] for n in order)


def _rotation(frame: Frame, where: str) -> npt.NDArray[np.float64]:
    """Directions of i, j and k as columns, at right angles exactly. Raises DicomHeaderError."""
    keyword = "ImageOrientationPatient"
    if frame.plane.orientation is None:
        raise DicomHeaderError(where, keyword, "is missing")
    i, j = np.reshape(frame.plane.orientation, (2, 3))
    lengths = np.linalg.norm(i), np.linalg.norm(j)
    if not np.allclose(lengths, 1, atol=10 * ANGLE_TOLERANCE) or abs(i @ j) > ANGLE_TOLERANCE:
        raise DicomHeaderError(where, keyword, "is not two unit vectors at right angles")
    i = i / lengths[0]
    j = j - (j @ i) * i
    j = j / np.linalg.norm(j)
    return np.stack([i, j, np.cross(i, j)], axis=1)


def _position(frame: Frame) -> tuple[float, ...]:
    if frame.plane.position_mm is None:
        raise DicomHeaderError(frame.path, "ImagePositionPatient", "is missing")
    if max(map(abs, frame.plane.position_mm)) > _FARTHEST_MM:
        raise DicomHeaderError(frame.path, "ImagePositionPatient", "is more than a kilometre away")
    return frame.plane.position_mm


def _in_plane_spacing(frame: Frame) -> tuple[float, float]:
    """Between rows and between columns. Raises DicomHeaderError."""
    spacing = frame.plane.spacing_mm
    if spacing is None:
        raise DicomHeaderError(frame.path, "PixelSpacing", "is missing")
    if not _SPACINGS_MM[0] <= min(spacing) <= max(spacing) <= _SPACINGS_MM[1]:
        raise DicomHeaderError(frame.path, "PixelSpacing", f"is {spacing[0]:g} x {spacing[1]:g} mm")
    return spacing[0], spacing[1]


def _require_alike(first: Frame, frame: Frame, where: str) -> None:
    """Raises MixedSeriesError where a frame has another size, spacing or orientation than the first."""
    if (first.columns, first.rows) != (frame.columns, frame.rows):
        sizes = f"{first.columns}x{first.rows}", f"{frame.columns}x{frame.rows}"
        raise MixedSeriesError(where, "size", sizes)
    spacings = np.asarray([_in_plane_spacing(first), _in_plane_spacing(frame)])
    if not np.allclose(spacings[0], spacings[1], rtol=_SAME_SPACING, atol=0):
        told = [" x ".join(f"{mm:g}" for mm in spacing) + " mm" for spacing in spacings]
        raise MixedSeriesError(where, "spacing", (told[0], told[1]))
    orientation = frame.plane.orientation
    if orientation is None:
        raise DicomHeaderError(frame.path, "ImageOrientationPatient", "is missing")
    assert first.plane.orientation is not None  # its rotation is known
    if not np.allclose(first.plane.orientation, orientation, atol=ANGLE_TOLERANCE):
        told = [" ".join(f"{n:.3g}" for n in o) for o in (first.plane.orientation, orientation)]
        raise MixedSeriesError(where, "orientation", (told[0], told[1]))


def _step(heights: npt.NDArray[np.float64], first: Frame, where: str) -> float:
    """The one distance between slices in mm; of a single slice its thickness.

    Raises RepeatedSliceError, SliceSpacingError, DicomHeaderError.
    """
    if len(heights) == 1:
        if first.plane.thickness_mm is None:
            raise DicomHeaderError(
                where, "SliceThickness", "is missing, and a single slice has no other depth"
            )
        return first.plane.thickness_mm
    steps = np.diff(heights)
    if steps.min() < POSITION_TOLERANCE_MM:
        places = 1 + int((steps >= POSITION_TOLERANCE_MM).sum())
        raise RepeatedSliceError(where, places, len(heights))
    even = np.linspace(heights[0], heights[-1], len(heights))
    step = float(even[1] - even[0])
    if abs(heights - even).max() > SLICE_TOLERANCE * step:
        usual = float(np.median(steps))
        whole = np.rint(steps / usual)
        is_gap = whole.min() >= 1 and (abs(steps / usual - whole) <= SLICE_TOLERANCE).all()
        n_missing = int((whole - 1).sum()) if is_gap else 0
        raise SliceSpacingError(where, (float(steps.min()), float(steps.max())), n_missing)
    return step


def _require_straight(
    positions: npt.NDArray[np.float64], rotation: npt.NDArray[np.float64], first: Frame, where: str
) -> None:
    """Raises TiltedSeriesError where slices are not stacked along their normal."""
    offsets = (positions - positions[0]) @ rotation[:, :2]
    if np.linalg.norm(offsets, axis=1).max() > SIDEWAYS_TOLERANCE * min(_in_plane_spacing(first)):
        raise TiltedSeriesError(where, float(np.linalg.norm(np.diff(offsets, axis=0), axis=1).max()))
