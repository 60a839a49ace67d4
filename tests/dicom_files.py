"""Small DICOM files for tests: every voxel holds `1000 k + 10 row + column`, so that any mistake of place shows."""

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
)

from medseg_core.dicom_errors import DicomError
from medseg_core.imaging.dicom.scan import Series, scan
from medseg_core.types import Geometry

ROWS, COLUMNS = 4, 5
SPACING_MM = (0.7, 0.5)  # between rows, between columns
STEP_MM = 3.0
AXIAL = (1, 0, 0, 0, 1, 0)
GRID = Geometry((5, 4, 3), (0.5, 0.7, 3.0), (10.0, -20.0, 30.0), tuple(np.eye(3).ravel()))  # of three slices
_FOREIGN_WORDS = re.compile(r"pydicom|gdcm|Traceback|Error|0x|\(\d{4},", re.IGNORECASE)
SERIES_UID, STUDY_UID, FRAME_UID = "1.2.3.4", "1.2.3", "1.2.3.9"


def stored(k: int) -> np.ndarray:
    """Pixels `(row, column)` of slice `k`."""
    return (1000 * k + 10 * np.arange(ROWS)[:, None] + np.arange(COLUMNS)).astype(np.int16)


def expected_voxels(n: int) -> np.ndarray:
    """Voxels `(i, j, k)` of `n` slices."""
    return np.stack([stored(k).T for k in range(n)], axis=-1).astype(np.float32)


def place(k: float, orientation: Sequence[float] = AXIAL, step_mm: float = STEP_MM) -> list[float]:
    """Position of slice `k` of a stack along its normal, which begins at (10, -20, 30) mm."""
    normal = np.cross(orientation[:3], orientation[3:])
    return (np.asarray([10.0, -20.0, 30.0]) + k * step_mm * normal).round(9).tolist()


def make_slice(k: int = 0, *, pixels: np.ndarray | None = None, **attributes: Any) -> Dataset:
    """One CT slice; `attributes` by DICOM's keywords, None takes one away."""
    pixels = stored(k) if pixels is None else pixels
    made = dataset(CTImageStorage, f"{SERIES_UID}.{k + 1}")
    made.update({
        "Modality": "CT", "SeriesInstanceUID": SERIES_UID, "StudyInstanceUID": STUDY_UID, "PatientID": "P1",
        "FrameOfReferenceUID": FRAME_UID, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SeriesDescription": "Abdomen",
        "ImageOrientationPatient": list(AXIAL), "ImagePositionPatient": place(k), "PixelSpacing": list(SPACING_MM),
        "SliceThickness": STEP_MM, "RescaleSlope": 1, "RescaleIntercept": 0, "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize, "HighBit": 8 * pixels.itemsize - 1,
        "PixelRepresentation": int(np.issubdtype(pixels.dtype, np.signedinteger)),
        "Rows": pixels.shape[0], "Columns": pixels.shape[1], "PixelData": pixels.tobytes(),
    })  # fmt: skip
    made["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    return change(made, **attributes)


def make_xray(pixels: np.ndarray | None = None, **attributes: Any) -> Dataset:
    """A radiograph with a spacing at the patient; `attributes` as of `make_slice`."""
    pixels = stored(0).astype(np.uint16) if pixels is None else pixels
    made = make_slice(
        pixels=pixels, Modality="DX", SOPClassUID=DigitalXRayImageStorageForPresentation,
        ImagePositionPatient=None, ImageOrientationPatient=None, BitsStored=12, HighBit=11, RescaleSlope=None,
        RescaleIntercept=None,
    )  # fmt: skip
    made.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    return change(made, **attributes)


def dataset(sop_class: str, instance: str) -> Dataset:
    """An empty object of a kind, ready to be written."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = UID(sop_class)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = UID(instance)
    return made


def change(made: Dataset, **attributes: Any) -> Dataset:
    """The dataset with other attributes; None takes one away, bytes of a number are written as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in attributes.items():
            if isinstance(value, bytes) and dictionary_VR(keyword) == "DS":
                tag = Tag(keyword)
                made[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True, True)
            elif value is not None:
                setattr(made, keyword, value)
            elif keyword in made:
                del made[keyword]
    return made


def save(made: Dataset, path: Path) -> Path:
    """The object as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path,
    n: int = 4,
    *,
    alter: Callable[[int, Dataset], object] = lambda k, made: None,
    **attributes: Any,
) -> Path:
    """A folder with a CT of `n` slices; `alter` changes each."""
    for k in range(n):
        made = make_slice(k, **attributes)
        alter(k, made)
        save(made, folder / f"slice{(k * 7) % n:03}_{k}.dcm")  # names in another order than places
    return folder


def only_series(folder: Path) -> Series:
    """The one series of images in a folder."""
    (series,) = scan(folder).series
    return series


def make_enhanced(n: int = 3, order: Sequence[int] | None = None) -> Dataset:
    """An enhanced MR of `n` frames, which stand in the file in another order than in space."""
    order = list(order if order is not None else reversed(range(n)))
    made = make_slice(
        0, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None, SliceThickness=None,
        RescaleSlope=None, RescaleIntercept=None, Modality="MR",
    )  # fmt: skip
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = EnhancedMRImageStorage
    made.NumberOfFrames = len(order)
    made.PixelData = b"".join(stored(k).tobytes() for k in order)
    made.SharedFunctionalGroupsSequence = [
        items(
            PixelMeasuresSequence=[items(PixelSpacing=list(SPACING_MM), SliceThickness=STEP_MM)],
            PlaneOrientationSequence=[items(ImageOrientationPatient=list(AXIAL))],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [
        items(
            PlanePositionSequence=[items(ImagePositionPatient=place(k))],
            PixelValueTransformationSequence=[items(RescaleSlope=k + 1, RescaleIntercept=-k)],
        )
        for k in order
    ]
    return made


def items(**attributes: Any) -> Dataset:
    """One item of a sequence."""
    return change(Dataset(), **attributes)


def make_structures(contours: dict[str, Sequence[Sequence[Sequence[float]]]], **attributes: Any) -> Dataset:
    """An RTSTRUCT on `write_series`: by name the contours, each a list of points in LPS mm."""
    made = dataset(RTStructureSetStorage, "1.2.3.5.1")
    made.Modality, made.SeriesInstanceUID, made.StudyInstanceUID = "RTSTRUCT", "1.2.3.5", STUDY_UID
    made.PatientID = "P1"
    named = [items(SeriesInstanceUID=SERIES_UID)]
    made.ReferencedFrameOfReferenceSequence = [
        items(
            FrameOfReferenceUID=FRAME_UID,
            RTReferencedStudySequence=[items(RTReferencedSeriesSequence=named)],
        )
    ]
    made.StructureSetROISequence = [
        items(ROINumber=n, ROIName=name) for n, name in enumerate(contours, start=1)
    ]
    made.ROIContourSequence = [
        items(ReferencedROINumber=n, ContourSequence=[make_contour(points) for points in drawn])
        for n, drawn in enumerate(contours.values(), start=1)
    ]
    return change(made, **attributes)


def make_contour(points: Sequence[Sequence[float]], kind: str = "CLOSED_PLANAR") -> Dataset:
    """One contour."""
    numbers = [f"{x:.6g}" for point in points for x in point]
    return items(ContourGeometricType=kind, NumberOfContourPoints=len(points), ContourData=numbers)


def make_segmentation(**attributes: Any) -> Dataset:
    """A binary SEG of one segment in three slices."""
    made = make_enhanced(order=[0, 1, 2])
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SegmentationStorage
    made.Modality, made.SeriesInstanceUID, made.SOPInstanceUID = "SEG", "1.2.3.6", "1.2.3.6.1"
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = made.PixelRepresentation = 0
    made.PixelData = bytes(8)
    made.SegmentationType = "BINARY"
    made.SegmentSequence = [items(SegmentNumber=1, SegmentLabel="liver")]
    for group in made.PerFrameFunctionalGroupsSequence:
        group.SegmentIdentificationSequence = [items(ReferencedSegmentNumber=1)]
    made.ReferencedSeriesSequence = [items(SeriesInstanceUID="1.2.3.6")]  # itself: a circle
    return change(made, **attributes)


def having(**attributes: Any) -> Callable[[Dataset], Dataset]:
    """What `change` does, to be done to another dataset later."""
    return lambda made: change(made, **attributes)


def assert_sentence(error: DicomError, fault: str) -> None:
    """What, where, what to do; no words of a library and, beside `where`, no path or identifier."""
    assert re.search(fault, error.fault), error.fault
    assert str(error) == f"{error.where}: {error.fault}. {error.remedy}."
    assert error.remedy[0].isupper()
    for told in (error.fault, error.remedy):
        assert not _FOREIGN_WORDS.search(told)
        assert "/" not in told.replace("Bq/mL", "")
        assert "1.2.3" not in told
