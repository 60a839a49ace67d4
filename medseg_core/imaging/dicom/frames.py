"""The frames of one DICOM file, single or multi-frame alike: where each lies and how its numbers are to be read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg_core.dicom_errors import DicomHeaderError, TooLargeDicomError, UnsupportedDicomError
from medseg_core.imaging.dicom.headers import count, item, items, number, numbers, text
from medseg_core.imaging.integrity import MAX_VOXELS

MAX_FRAMES = 2**16


@dataclass(frozen=True)
class Plane:
    """Where a frame lies: position of its first pixel (LPS mm), directions of its row and column, spacing."""

    position_mm: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = (
        None  # direction in which columns count, then rows (DICOM's six numbers)
    )
    spacing_mm: tuple[float, ...] | None = None  # between rows, between columns (DICOM's order)
    thickness_mm: float | None = None

    @property
    def normal(self) -> npt.NDArray[np.float64] | None:
        """Unit vector across the frame; None where no orientation is told."""
        if self.orientation is None:
            return None
        across = np.cross(self.orientation[:3], self.orientation[3:])
        length = np.linalg.norm(across)
        return np.asarray(across / length) if length > 0 else None


@dataclass(frozen=True)
class Frame:
    """One frame of a file: what it shows of which place, and `value = slope * stored + intercept`."""

    path: Path
    number: int | None  # 1-based in a multi-frame file, as DICOM counts
    sop_class_uid: str
    sop_instance_uid: str
    plane: Plane
    rows: int
    columns: int
    slope: float | None
    intercept: float | None
    mirror: int | None  # of MONOCHROME1: `mirror - stored` is bright where the picture is; None of others


def frames_of(header: Dataset, path: Path) -> tuple[Frame, ...]:
    """Every frame that a header claims. Raises DicomError leaves."""
    rows, columns = count(header, "Rows", path), count(header, "Columns", path)
    _require_right_aligned(header, path)
    if not is_multi_frame(header):
        if (number(header, "NumberOfFrames", path) or 1) > 1:
            raise UnsupportedDicomError(
                path, "it is a film of several frames without a place of their own", "Export single images"
            )
        _require_bounded(path, 1, rows, columns)
        return (_frame(header, path, None, (header,), (rows, columns)),)
    n = count(header, "NumberOfFrames", path)
    _require_bounded(path, n, rows, columns)
    groups = items(header, "PerFrameFunctionalGroupsSequence", path)
    if len(groups) != n:
        fault = f"has {len(groups)} item(s) where {n} frames are claimed"
        raise DicomHeaderError(path, "PerFrameFunctionalGroupsSequence", fault)
    shared = item(header, "SharedFunctionalGroupsSequence", path)
    return tuple(
        _frame(header, path, place, (group, shared), (rows, columns))
        for place, group in enumerate(groups, start=1)
    )


def _require_right_aligned(header: Dataset, path: Path) -> None:
    """Raises DicomHeaderError where bits above the values are not the unused ones, as before the DICOM of 2004."""
    high, stored = number(header, "HighBit", path), number(header, "BitsStored", path)
    if high is not None and stored is not None and high != stored - 1:
        raise DicomHeaderError(path, "HighBit", f"is {high:g} where BitsStored is {stored:g}")


def first_plane(header: Dataset, path: Path) -> Plane:
    """Where the first frame of a file lies, as far as it is told. Raises DicomHeaderError."""
    if not is_multi_frame(header):
        return plane_of((header,), path)
    groups = items(header, "PerFrameFunctionalGroupsSequence", path)[:1]
    return plane_of((*groups, item(header, "SharedFunctionalGroupsSequence", path)), path)


def is_multi_frame(header: Dataset) -> bool:
    """Whether a file keeps places in functional groups, as the enhanced kinds and SEG do."""
    return "SharedFunctionalGroupsSequence" in header or "PerFrameFunctionalGroupsSequence" in header


def plane_of(groups: tuple[Dataset, ...], path: Path) -> Plane:
    """A plane from the functional groups of a frame, its own first, or from a single image's header."""
    measures = _group(groups, "PixelMeasuresSequence", path)
    thickness = number(measures, "SliceThickness", path)
    return Plane(
        numbers(_group(groups, "PlanePositionSequence", path), "ImagePositionPatient", 3, path),
        numbers(_group(groups, "PlaneOrientationSequence", path), "ImageOrientationPatient", 6, path),
        numbers(measures, "PixelSpacing", 2, path) or numbers(measures, "ImagerPixelSpacing", 2, path),
        thickness if thickness and thickness > 0 else None,
    )


def _frame(
    header: Dataset, path: Path, place: int | None, groups: tuple[Dataset, ...], size: tuple[int, int]
) -> Frame:
    transformation = _group(groups, "PixelValueTransformationSequence", path)
    return Frame(
        path=path,
        number=place,
        sop_class_uid=text(header, "SOPClassUID"),
        sop_instance_uid=text(header, "SOPInstanceUID"),
        plane=plane_of(groups, path),
        rows=size[0],
        columns=size[1],
        slope=number(transformation, "RescaleSlope", path),
        intercept=number(transformation, "RescaleIntercept", path),
        mirror=_mirror(header, path),
    )


def _mirror(header: Dataset, path: Path) -> int | None:
    """Least and greatest value that can be stored, added up."""
    if text(header, "PhotometricInterpretation") != "MONOCHROME1":
        return None
    is_signed = number(header, "PixelRepresentation", path) == 1
    bits = count(header, "BitsStored", path)
    if bits > 32:
        raise DicomHeaderError(path, "BitsStored", f"is {bits}")
    return -1 if is_signed else 2**bits - 1


def _group(groups: tuple[Dataset, ...], keyword: str, path: Path) -> Dataset:
    """The item of a functional group in the first place that has it; a single image's header is its own group."""
    if not any(keyword in group for group in groups):
        return groups[0] if len(groups) == 1 else Dataset()
    return next(item(group, keyword, path) for group in groups if keyword in group)


def _require_bounded(path: Path, n_frames: int, rows: int, columns: int) -> None:
    if n_frames > MAX_FRAMES or n_frames * rows * columns > MAX_VOXELS:
        raise TooLargeDicomError(path, f"it claims {columns}x{rows}x{n_frames} pixels, more than can be held")
