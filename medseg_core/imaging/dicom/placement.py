"""Where a frame or a contour of a segmentation lies on an image's grid: in whole slices, or not at all."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg_core.dicom_errors import ForeignSegmentationError
from medseg_core.imaging.dicom.headers import items, text
from medseg_core.imaging.dicom.scan import Series, referenced_series
from medseg_core.types import Geometry

MAX_MASK_BYTES = 2**34  # of all masks of a file together
NEAR = 0.2  # of a voxel: slices may lie a tenth off their even grid, and two makers round differently


def to_index(points_mm: npt.NDArray[np.float64], grid: Geometry) -> npt.NDArray[np.float64]:
    """World points `(n, 3)` in LPS mm as continuous indices `(n, 3)` of a 3D grid."""
    rotation = np.reshape(grid.direction, (3, 3))
    moved = (points_mm - np.asarray(grid.origin_mm)) @ rotation  # its inverse is its transpose
    return np.asarray(moved / np.asarray(grid.spacing))


def require_volume(grid: Geometry, path: Path) -> None:
    """Raises ForeignSegmentationError unless the reference is 3D, with millimetres."""
    if len(grid.shape) != 3 or grid.spacing_mm is None:
        raise ForeignSegmentationError(path, "it lies in space, and the image is a flat picture")


def require_drawn_on(header: Dataset, path: Path, series: Series | None) -> None:
    """Raises ForeignSegmentationError where a SEG or RTSTRUCT names other series than this one, or another space."""
    if series is None:
        return
    if series.patient_id != text(header, "PatientID"):
        raise ForeignSegmentationError(path, "it is of another patient than the image")
    named = referenced_series(header, path)
    if named and series.series_uid not in named:
        raise ForeignSegmentationError(path, "it was drawn on another series")
    holders = (header, *items(header, "ReferencedFrameOfReferenceSequence", path))
    spaces = {text(holder, "FrameOfReferenceUID") for holder in holders} - {""}
    if spaces and series.frame_of_reference_uid and series.frame_of_reference_uid not in spaces:
        raise ForeignSegmentationError(path, "it lies in another frame of reference than the image")
