"""A series becomes a Volume: CT in Hounsfield units, PET in standardised uptake values, MR and X-ray as rescaled.

PET is SUV by body weight, g/mL, whatever the scanner stored. X-rays are 2D, and white is bright:
MONOCHROME1 is turned. CT, MR and PET are never turned: there the photometric interpretation says how to show them.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg_core.dicom_errors import (
    DicomError,
    DicomHeaderError,
    MixedSeriesError,
    TooLargeDicomError,
    UnsupportedDicomError,
)
from medseg_core.imaging.dicom.frames import Frame, frames_of
from medseg_core.imaging.dicom.grid import grid_of
from medseg_core.imaging.dicom.headers import read_header, text
from medseg_core.imaging.dicom.pet import uptake_factor
from medseg_core.imaging.dicom.pixels import read_frames
from medseg_core.imaging.dicom.scan import Series
from medseg_core.types import Geometry, Volume

XRAY = ("CR", "DX", "MG")  # modalities of single projections


@dataclass(frozen=True)
class SliceReference:
    """What DICOM calls a slice: for references from results to their source."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None  # 1-based; None where the file holds this slice alone


@dataclass(frozen=True)
class Slices:
    """A series' grid and the slice at each `k`; an X-ray is one slice of a 2D grid."""

    geometry: Geometry
    references: tuple[SliceReference, ...]


def read_slices(series: Series) -> Slices:
    """Grid and slices of a series, from headers alone. Raises DicomError leaves."""
    geometry, frames = _ordered(series)
    return Slices(
        geometry, tuple(SliceReference(f.sop_class_uid, f.sop_instance_uid, f.number) for f in frames)
    )


def read_series(series: Series) -> Volume:
    """The image as float32 `(1, i, j[, k])`, LPS mm, with `k` rising along the normal. Raises DicomError leaves."""
    geometry, frames = _ordered(series)
    factor = uptake_factor(series.files, str(series)) if series.modality == "PT" else 1.0
    shape = len(frames), frames[0].rows, frames[0].columns
    try:
        voxels = np.empty(shape, np.float32)  # (k, j, i)
    except MemoryError:
        raise TooLargeDicomError(
            str(series), f"its {prod(shape) >> 28} GiB do not fit into the memory of this machine"
        ) from None
    for k, stored in read_frames(frames):
        voxels[k] = _values(stored, frames[k], series, factor)
    if not np.isfinite(voxels).all():
        raise DicomError(str(series), "its rescaled values are beyond what can be held", "Export it again")
    whole = voxels.T[None]  # (1, i, j, k), i fastest
    return Volume(whole[..., 0] if len(geometry.shape) == 2 else whole, geometry)


def _ordered(series: Series) -> tuple[Geometry, tuple[Frame, ...]]:
    """Grid of a series and its frames by `k`."""
    where = str(series)
    if not series.files:
        raise DicomError(where, "it has no files", "Name the files of a series")
    frames: list[Frame] = []
    spaces: set[str] = set()
    for path in series.files:
        header = read_header(path)
        if text(header, "SeriesInstanceUID") != series.series_uid:
            raise DicomError(path, "it is of another series than when it was found", "Scan the folder again")
        _require_plain(header, path)
        spaces.add(text(header, "FrameOfReferenceUID"))
        frames += frames_of(header, path)
    if series.modality in XRAY:
        return _projection(frames, where)
    if len(spaces) > 1:  # positions in one say nothing of positions in another
        raise MixedSeriesError(where, "frame of reference", ("one", "another"))
    return grid_of(frames, where)


def _require_plain(header: Dataset, path: object) -> None:
    """Raises UnsupportedDicomError where values follow from a table."""
    if "ModalityLUTSequence" in header:
        raise UnsupportedDicomError(
            str(path), "its values follow from a table (modality LUT)", "Export it rescaled"
        )


def _projection(frames: list[Frame], where: str) -> tuple[Geometry, tuple[Frame, ...]]:
    """An X-ray's 2D grid: pixel spacing at the patient, else at the detector; None where neither is told."""
    if len(frames) > 1:
        fault = f"it holds {len(frames)} images, and one X-ray is one case"
        raise UnsupportedDicomError(where, fault, "Give each image as a series of its own")
    spacing = frames[0].plane.spacing_mm
    if spacing and min(spacing) <= 0:
        raise DicomHeaderError(where, "PixelSpacing", f"is {spacing[0]:g} x {spacing[1]:g} mm")
    shape = (frames[0].columns, frames[0].rows)
    return Geometry(shape, spacing and (spacing[1], spacing[0]), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0)), tuple(
        frames
    )


def _values(
    stored: npt.NDArray[np.number], frame: Frame, series: Series, factor: float
) -> npt.NDArray[np.float32]:
    slope, intercept = frame.slope, frame.intercept
    if series.modality in ("CT", "PT") and (slope is None or intercept is None):
        raise DicomHeaderError(frame.path, "RescaleSlope or RescaleIntercept", "is missing")
    values = stored.astype(np.float64)
    if series.modality in XRAY and frame.mirror is not None:
        values = frame.mirror - values
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0:
        raise DicomHeaderError(frame.path, "RescaleSlope", "is 0")
    with np.errstate(over="ignore"):
        return np.asarray((values * slope + intercept) * factor).astype(np.float32)
