"""The images of a series as objects that a result refers to."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.valuerep import DA, TM, validate_value

from medseg_core.dicom_errors import DicomError, UnsupportedDicomError
from medseg_core.imaging.dicom.headers import decoding, read_header, text
from medseg_core.imaging.dicom.scan import Series
from medseg_core.imaging.dicom.series import read_slices

# Of patient and study: a result has them as the images have, and blank where these lack them (DICOM's type 2)
_MAY_BE_BLANK = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_FREE_TEXT = ("PatientComments", "AdditionalPatientHistory")  # DICOM lets a result go without it
_IF_VALID = {
    "StudyDescription": "LO",
    "PatientAge": "AS",
}  # and without these; no PACS files an object by them
_STUDY_ID_CHARACTERS = 16  # SH: what exceeds it makes every object of the study invalid


@dataclass(frozen=True)
class Sources:
    """Headers of the images, and the slice of the volume that each frame of them shows."""

    images: tuple[Dataset, ...]  # one a slice, by `k`; or one with all frames
    slices: tuple[int, ...]  # `k` of each frame, in the order of the images

    def frames(self, labels: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "n j i"]:
        """A label map `(i, j[, k])` on the grid of the series, frame by frame."""
        volume = labels if labels.ndim == 3 else labels[..., None]
        return np.ascontiguousarray(volume.transpose(2, 1, 0)[list(self.slices)])


def sources_of(series: Series) -> Sources:
    """The images of a series. Raises DicomError leaves, also where they changed since they were read."""
    references = read_slices(series).references
    images = {}
    for path in series.files:
        header = read_header(path)
        with decoding(path):
            _make_repeatable(header)
        images[str(header.SOPInstanceUID)] = header
    uids = list(dict.fromkeys(reference.sop_instance_uid for reference in references))
    if set(uids) != images.keys():
        raise DicomError(str(series), "its files changed while they were read", "Run it again")
    if len(uids) == len(references):
        return Sources(tuple(images[uid] for uid in uids), tuple(range(len(uids))))
    if len(uids) > 1:
        fault = f"it is {len(uids)} files of several frames, and a segmentation refers to one"
        raise UnsupportedDicomError(
            str(series), fault, "Export it as one multi-frame object, or as single images"
        )
    numbers = [reference.frame_number or 1 for reference in references]
    return Sources((images[uids[0]],), tuple(int(k) for k in np.argsort(numbers)))


def _make_repeatable(header: Dataset) -> None:
    """Leave of patient and study what a valid object may say of them, in UTF-8; nonsense is blank.

    Names and numbers stay as they are, invalid ones too: the PACS files results beside the images by them.
    """
    for keyword in _MAY_BE_BLANK:
        if keyword not in header or not _is_valid(keyword, text(header, keyword)):
            setattr(header, keyword, None)
    for keyword in (*_FREE_TEXT, *(k for k, vr in _IF_VALID.items() if not _fits(vr, text(header, k)))):
        header.pop(keyword, None)
    header.StudyID = str(header.StudyID or "")[:_STUDY_ID_CHARACTERS]
    header.decode()
    header.SpecificCharacterSet = "ISO_IR 192"  # names of tasks and labels have letters, too


def _fits(vr: str, told: str) -> bool:
    """Whether one value of a kind is valid."""
    try:
        validate_value(vr, told, RAISE)
    except ValueError:
        return False
    return "\\" not in told


def _is_valid(keyword: str, told: str) -> bool:
    if keyword == "PatientSex":
        return told in ("", "F", "M", "O")
    kind = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}.get(keyword, str)
    try:
        kind(told)
    except ValueError:
        return False
    return True
