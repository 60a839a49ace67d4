"""A folder of DICOM becomes series: headers alone are read, one file at a time, and only a few words of each kept."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydicom import uid
from pydicom.dataset import Dataset

from medseg_core.dicom_errors import DicomError, NoSliceError, NotDicomError
from medseg_core.imaging.dicom.frames import Plane, first_plane
from medseg_core.imaging.dicom.headers import items, number, read_header, text, words

Kind = Literal["image", "segmentation", "structures"]
Orientation = Literal["axial", "coronal", "sagittal", "oblique", ""]

_IMAGES = frozenset((
    uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage,
    uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.LegacyConvertedEnhancedMRImageStorage,
    uid.PositronEmissionTomographyImageStorage, uid.EnhancedPETImageStorage,
    uid.LegacyConvertedEnhancedPETImageStorage,
    uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing, uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForProcessing,
))  # fmt: skip
LABELMAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
_SEGMENTATIONS = frozenset((uid.SegmentationStorage, LABELMAP_SEGMENTATION))
_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID",
    "Modality", "SeriesDescription", "StudyDescription", "ProtocolName", "ImageType", "FrameOfReferenceUID",
    "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength", "PatientSex", "PatientAge",
    "PatientBirthDate", "StudyDate", "BodyPartExamined", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "PixelSpacing", "SliceThickness", "ImageOrientationPatient",
    "ImagePositionPatient", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence",
)  # fmt: skip
_STRAIGHT = 0.94  # cosine of 20 degrees: a head tilted further is no longer called axial


@dataclass(frozen=True)
class Series:
    """The files of one series and what their headers say; printing it shows no identifier and no path."""

    series_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    patient_id: str = field(repr=False)
    modality: str  # DICOM's: CT, MR, PT, CR, DX, MG, SEG, RTSTRUCT
    description: str = field(repr=False)
    sop_class_uid: str
    files: tuple[Path, ...] = field(repr=False)  # in no order
    frame_of_reference_uid: str = field(default="", repr=False)
    image_type: tuple[str, ...] = ()
    orientation: Orientation = ""
    slice_thickness_mm: float | None = None
    rows: int = 0
    columns: int = 0
    manufacturer: str = ""
    model: str = ""
    field_strength_t: float | None = None
    sex: str = ""
    age_years: float | None = None
    body_part: str = ""
    patient_issuer: str = field(default="", repr=False)  # whose number the patient ID is, where that is told
    referenced_series_uids: tuple[str, ...] = field(
        default=(), repr=False
    )  # SEG, RTSTRUCT: what they were drawn on

    def __str__(self) -> str:
        """Such as `CT series of 120 file(s)`: names it in an error."""
        return f"{self.modality or 'unknown'} series of {len(self.files)} file(s)"


@dataclass(frozen=True)
class LeftOut:
    """A file that belongs to no series, and why; the reason names no identifier."""

    path: Path
    reason: str
    state: Literal["no slice", "no DICOM", "damaged"] = "no slice"


@dataclass(frozen=True)
class Scan:
    """What lies in a folder."""

    series: tuple[Series, ...] = ()
    segmentations: tuple[Series, ...] = ()
    structures: tuple[Series, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def lost(self) -> tuple[LeftOut, ...]:
        """What may be slices of its series: what is damaged, contradicts them, or is no DICOM and named alike."""
        names = {_kind_of_name(path) for one in self.series for path in one.files}
        return tuple(
            one
            for one in self.left_out
            if one.state == "damaged" or (one.state == "no DICOM" and _kind_of_name(one.path) in names)
        )


def scan(root: Path | Sequence[Path], *, progress: Callable[[int, int], None] | None = None) -> Scan:
    """Every series in a folder and the folders in it, or of a list of files; links to folders are not followed.

    `progress` is told files read and files in all. Localisers and second copies of an object are left out.
    Raises NotDicomError where there is no such folder.
    """
    left_out: list[LeftOut] = []
    paths = sorted(_files(root, left_out)) if isinstance(root, Path) else list(root)
    found: dict[tuple[Kind, str], tuple[Series, list[Path]]] = {}
    seen: set[str] = set()
    for done, path in enumerate(paths, start=1):
        try:
            _add(path, found, seen)
        except DicomError as error:
            left_out.append(LeftOut(path, error.fault, _state(error)))
        if progress is not None:
            progress(done, len(paths))
    by_kind: dict[Kind, list[Series]] = {"image": [], "segmentation": [], "structures": []}
    for (kind, _), (series, files) in found.items():
        by_kind[kind].append(replace(series, files=tuple(files)))
    return Scan(
        tuple(by_kind["image"]), tuple(by_kind["segmentation"]), tuple(by_kind["structures"]), tuple(left_out)
    )


def _files(root: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    if not root.is_dir():
        raise NotDicomError(root, "there is no such folder", "Correct the path")
    for folder, folders, names in os.walk(root, onerror=lambda e: left_out.append(_closed(e))):
        for name in folders:
            if (link := Path(folder, name)).is_symlink():
                left_out.append(LeftOut(link, "it is a link to a folder, which is not followed"))
        yield from (Path(folder, name) for name in names)


def _closed(error: OSError) -> LeftOut:
    return LeftOut(Path(error.filename), "the folder may not be read", "damaged")


def _state(error: DicomError) -> Literal["no slice", "no DICOM", "damaged"]:
    if isinstance(error, NoSliceError):
        return "no slice"
    return "no DICOM" if isinstance(error, NotDicomError) else "damaged"


def _kind_of_name(path: Path) -> str:
    """The ending without digits, as of names that are UIDs; another one of each hidden file."""
    return path.name if path.name.startswith(".") else path.suffix.lower().strip(".0123456789")


def _add(path: Path, found: dict[tuple[Kind, str], tuple[Series, list[Path]]], seen: set[str]) -> None:
    """Put a file into its series. Raises DicomError with the reason to leave it out."""
    header = read_header(path, _KEYWORDS)
    kind = _kind(header, path)
    series = _series(header, path, kind)
    instance = text(header, "SOPInstanceUID")
    if not (instance and series.series_uid):
        raise DicomError(path, "it lacks the UID of its series or its own")
    if instance in seen:
        raise NoSliceError(path, "another file holds an object of the same UID")
    known, files = found.setdefault((kind, series.series_uid), (series, []))
    if (known.patient_id, known.study_uid) != (series.patient_id, series.study_uid):
        raise DicomError(path, "its series has files of another patient or study", "Correct the header")
    if known.sop_class_uid != series.sop_class_uid:
        raise DicomError(path, "its series has files of another kind", "Correct the header")
    seen.add(instance)
    files.append(path)


def _kind(header: Dataset, path: Path) -> Kind:
    sop_class = text(header, "SOPClassUID")
    if sop_class in _SEGMENTATIONS:
        return "segmentation"
    if sop_class == uid.RTStructureSetStorage:
        return "structures"
    if text(header.file_meta, "MediaStorageSOPClassUID") == uid.MediaStorageDirectoryStorage:
        raise NoSliceError(path, "it holds no image (it is a DICOMDIR)")
    if not sop_class:
        raise DicomError(path, "it lacks its kind (SOP class)")
    if sop_class not in _IMAGES:
        name = uid.UID(sop_class).name
        held = "of a private or unknown kind" if name == sop_class else f"of the kind {name}"
        raise NoSliceError(path, f"it is {held}, which is not read")
    if "LOCALIZER" in words(header, "ImageType"):
        raise NoSliceError(path, "it is a localiser")
    if "MOSAIC" in words(header, "ImageType"):
        remedy = "Export it as single or enhanced slices"
        raise NoSliceError(path, "it is a mosaic of slices in one picture", remedy)
    is_coloured = (
        text(header, "PhotometricInterpretation") == "PALETTE COLOR"
    )  # its values are no intensities
    if is_coloured or (number(header, "SamplesPerPixel", path) or 1) > 1:
        raise NoSliceError(path, "it is a colour picture")
    return "image"


def _series(header: Dataset, path: Path, kind: Kind) -> Series:
    plane = first_plane(header, path) if kind == "image" else Plane()
    return Series(
        series_uid=text(header, "SeriesInstanceUID"),
        study_uid=text(header, "StudyInstanceUID"),
        patient_id=text(header, "PatientID"),
        patient_issuer=text(header, "IssuerOfPatientID"),
        modality=text(header, "Modality").upper(),
        description=text(header, "SeriesDescription") or text(header, "ProtocolName"),
        sop_class_uid=text(header, "SOPClassUID"),
        files=(),
        frame_of_reference_uid=text(header, "FrameOfReferenceUID"),
        image_type=words(header, "ImageType"),
        orientation=_orientation(plane),
        slice_thickness_mm=plane.thickness_mm,
        rows=int(number(header, "Rows", path) or 0),
        columns=int(number(header, "Columns", path) or 0),
        manufacturer=text(header, "Manufacturer"),
        model=text(header, "ManufacturerModelName"),
        field_strength_t=_lenient(header, "MagneticFieldStrength"),
        sex=text(header, "PatientSex").upper(),
        age_years=_age_years(header),
        body_part=text(header, "BodyPartExamined").upper(),
        referenced_series_uids=() if kind == "image" else referenced_series(header, path),
    )


def _lenient(header: Dataset, keyword: str) -> float | None:
    """A number that nothing depends on; None where it makes no sense."""
    try:
        return number(header, keyword, "")
    except DicomError:
        return None


def _orientation(plane: Plane) -> Orientation:
    normal = plane.normal
    if normal is None:
        return ""
    largest = int(abs(normal).argmax())
    names: tuple[Orientation, ...] = ("sagittal", "coronal", "axial")
    return names[largest] if abs(normal[largest]) >= _STRAIGHT else "oblique"


def _age_years(header: Dataset) -> float | None:
    """PatientAge (`059Y`, `08M`), else from the dates of birth and study; None where neither is told."""
    if age := re.fullmatch(r"(\d{1,3})([DWMY])", text(header, "PatientAge")):
        return int(age[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[age[2]]
    dates = [text(header, "PatientBirthDate"), text(header, "StudyDate")]
    if not all(re.fullmatch(r"\d{8}", date) for date in dates):
        return None
    born, studied = (int(d[:4]) + (int(d[4:6]) - 1) / 12 + (int(d[6:]) - 1) / 372 for d in dates)
    return studied - born if studied >= born else None


def referenced_series(header: Dataset, path: Path) -> tuple[str, ...]:
    """Series that a SEG or an RTSTRUCT names as its source. Raises DicomHeaderError."""
    series = [*items(header, "ReferencedSeriesSequence", path)]
    for frame in items(header, "ReferencedFrameOfReferenceSequence", path):
        for study in items(frame, "RTReferencedStudySequence", path):
            series += items(study, "RTReferencedSeriesSequence", path)
    names = (text(one, "SeriesInstanceUID") for one in series)
    return tuple(dict.fromkeys(name for name in names if name))
