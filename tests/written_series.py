"""Series of DICOM written from arrays, slice by slice, as a scanner would leave them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
OBLIQUE = ((0.96, 0.28, 0.0), (-0.168, 0.576, 0.8))  # unit vectors at right angles, off every axis
_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}


def write_series(
    folder: Path,
    voxels: npt.NDArray[np.int16],
    *,
    modality: str = "CT",
    directions: tuple[tuple[float, ...], tuple[float, ...]] = AXIAL,
    spacing_mm: tuple[float, float, float] = (0.8, 1.1, 3.0),
    is_reversed: bool = False,
    **attributes: Any,
) -> list[str]:
    """Write `(i, j, k)` as one file a slice; returns the SOP instance UID of each `k`.

    `k` rises along the normal. `is_reversed` numbers and names the slices from the last to the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = (generate_uid() for _ in range(3))
    row, column = (np.asarray(d) for d in directions)
    normal = np.cross(row, column)
    n, uids = voxels.shape[2], []
    for k in range(n):
        place = n - k if is_reversed else k + 1
        slice_ = _slice(modality, voxels[..., k].T)
        slice_.update(
            {
                "StudyInstanceUID": study,
                "SeriesInstanceUID": series,
                "FrameOfReferenceUID": frame,
                "InstanceNumber": place,
                "PixelSpacing": [spacing_mm[1], spacing_mm[0]],
                "SliceThickness": spacing_mm[2],
                "ImageOrientationPatient": [*row.tolist(), *column.tolist()],
                "ImagePositionPatient": np.round(
                    np.array([-40.0, -30.0, 15.0]) + k * spacing_mm[2] * normal, 6
                ).tolist(),
                **attributes,
            }
        )
        slice_.save_as(folder / f"{place:04}.dcm", enforce_file_format=True)
        uids.append(str(slice_.SOPInstanceUID))
    return uids


def _slice(modality: str, pixels: npt.NDArray[np.int16]) -> Dataset:
    """One image with its pixels `(j, i)`."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = _CLASSES[modality]
    meta.MediaStorageSOPInstanceUID = generate_uid()
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.update(
        {
            "PatientID": "id-17",
            "PatientName": "Doe^Jane",
            "PatientBirthDate": "19500101",
            "PatientSex": "F",
            "StudyID": "1",
            "StudyDate": "20200101",
            "StudyTime": "120000",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "Modality": modality,
            "SeriesNumber": 3,
            "SeriesDescription": "of a test",
            "Manufacturer": "none",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "RescaleSlope": 1,
            "RescaleIntercept": 0,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
        }
    )
    image.PixelData = np.ascontiguousarray(pixels, np.int16).tobytes()
    return image


def faults_by_dciodvfy(path: Path) -> list[str]:
    """What Clunie's checker of DICOM calls errors; the test is skipped where it is not installed."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed: make orthanc")
    found = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    return [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]
