"""What a model found in a series, as objects for a PACS: a segmentation (SEG) and a structured report (SR).

Both go into the study of the series, name every image that was read, the model and its weights, and say "Research use
only".
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from pydicom import Dataset

from medseg_core.dicom_errors import DicomError
from medseg_core.files import write_atomic
from medseg_core.imaging.dicom.report_object import report_of
from medseg_core.imaging.dicom.result_facts import Maker, Meaning
from medseg_core.imaging.dicom.scan import Series
from medseg_core.imaging.dicom.segmentation_object import segmentation_of
from medseg_core.imaging.dicom.sources import sources_of
from medseg_core.imaging.measurements import Measurements

SEGMENTATION, REPORT = "segmentation.dcm", "report.dcm"


@dataclass(frozen=True)
class Found:
    """What a model found in one series."""

    labels: UInt8[
        np.ndarray, "..."
    ]  # (i, j[, k]) on the grid of the series: 0 background, 1.. in the order of `meanings`
    meanings: Sequence[Meaning]
    measurements: Mapping[str, Measurements]  # by name of the meaning
    remark: str = ""  # such as that the case is flagged; 16 characters at most, stands in both objects


def write_results(folder: Path, series: Series, found: Found, maker: Maker) -> tuple[Path, Path]:
    """Write the SEG and the SR that refers to it, each whole or not at all; returns their paths.

    Raises DicomError leaves for a series that a result cannot refer to, UnusableFolderError.
    """
    sources = sources_of(series)
    try:
        segmentation = segmentation_of(
            sources.frames(found.labels), sources.images, found.meanings, maker, remark=found.remark
        )
        report = report_of(
            segmentation, sources.images, found.meanings, found.measurements, maker, remark=found.remark
        )
    except (AttributeError, KeyError, TypeError, ValueError):  # highdicom's, of headers that are no image's
        remedy = "Check the headers with dciodvfy, and export the series again"
        raise DicomError(str(series), "its headers lack what a segmentation must repeat", remedy) from None
    paths = folder / SEGMENTATION, folder / REPORT
    for path, dataset in zip(paths, (segmentation, report), strict=True):
        write_atomic(path, _bytes_of(dataset))
    return paths


def _bytes_of(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
