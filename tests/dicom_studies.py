"""Studies of MR with a square drawn on them as RTSTRUCT, as DICOM files; and sites that import them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from enrolment import make_site
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, RTStructureSetStorage

from medseg_client.site_folder import SiteFolder

SIDE, SPACING_MM, STEP_MM = 24, 1.5, 3.0
SQUARE_MM = (
    (7.5, 7.5),
    (22.5, 7.5),
    (22.5, 22.5),
    (7.5, 22.5),
)  # pixels 5 to 14: contours pass their centres
TASK = """
[task]
name = "squares"
spatial_dims = 3
labels = { square = 1 }
[[task.channels]]
name = "t1"
modality = "MR"
[training]
patch_size = [16, 16, 8]
"""
Alter = Callable[[Dataset], object]


def make_study(
    folder: Path, number: int, *, patient: str = "", n_slices: int = 4, alter: Alter = lambda made: None
) -> Path:
    """A study of its own UIDs: `n_slices` of MR and a square called `square` on the inner ones."""
    study = f"1.2.826.0.1.3680043.10.543.{number}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    for k in range(n_slices):
        _save(
            _slice(study, k, rng.integers(0, 900, (SIDE, SIDE), np.uint16)),
            patient or f"P{number}",
            alter,
            folder,
        )
    _save(_structures(study, n_slices), patient or f"P{number}", alter, folder)
    return folder


def make_importing_site(root: Path, **settings: Any) -> SiteFolder:
    """A site with a folder, and beside it the experiment of `make_study`: experiment.toml."""
    site, _ = make_site(root / "site")
    if settings:
        changed = site.settings.model_copy(update=settings)
        (site.root / "site.toml").write_text(changed.to_toml())
    (root / "experiment.toml").write_text(TASK)
    return site


def _object(sop_class: str, study: str, series: str, instance: str) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = UID(sop_class)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = UID(f"{study}.{series}.{instance}")
    made.StudyInstanceUID, made.SeriesInstanceUID = study, f"{study}.{series}"
    made.FrameOfReferenceUID, made.StudyDate, made.PatientName = f"{study}.9", "20240229", "Example^Ada"
    made.PatientBirthDate, made.PatientSex, made.AccessionNumber = "19600101", "F", "ACC77"
    made.Manufacturer, made.ManufacturerModelName, made.MagneticFieldStrength = "SIEMENS", "Aera", 1.5
    return made


def _slice(study: str, k: int, pixels: np.ndarray) -> Dataset:
    made = _object(MRImageStorage, study, "1", str(k + 1))
    made.Modality, made.SeriesDescription, made.ImageType = "MR", "Ax T1", ["ORIGINAL", "PRIMARY", "M"]
    made.ImageOrientationPatient, made.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, k * STEP_MM]
    made.PixelSpacing, made.SliceThickness = [SPACING_MM, SPACING_MM], STEP_MM
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
    made.Rows, made.Columns = pixels.shape
    made.PixelData = pixels.tobytes()
    return made


def _structures(study: str, n_slices: int) -> Dataset:
    made = _object(RTStructureSetStorage, study, "2", "1")
    made.Modality = "RTSTRUCT"
    series = _items(SeriesInstanceUID=f"{study}.1")
    made.ReferencedFrameOfReferenceSequence = [
        _items(
            FrameOfReferenceUID=f"{study}.9",
            RTReferencedStudySequence=[_items(RTReferencedSeriesSequence=[series])],
        )
    ]
    made.StructureSetROISequence = [_items(ROINumber=1, ROIName="square")]
    contours = [
        _items(
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(SQUARE_MM),
            ContourData=[number for x, y in SQUARE_MM for number in (x - 0.75, y - 0.75, k * STEP_MM)],
        )
        for k in range(1, n_slices - 1)
    ]
    made.ROIContourSequence = [_items(ReferencedROINumber=1, ContourSequence=contours)]
    return made


def _items(**attributes: Any) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def _save(made: Dataset, patient: str, alter: Alter, folder: Path) -> None:
    made.PatientID = patient
    alter(made)
    name = str(made.file_meta.MediaStorageSOPInstanceUID).split(".543.")[1]
    made.save_as(folder / f"{name}.dcm", enforce_file_format=True)
