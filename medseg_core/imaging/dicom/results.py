"""What a model found in a series, as objects for a PACS: a segmentation (SEG) and a structured report (SR).

Both go into the study of the series, name every image that was read, the model and its weights, and say "Research use
only". Values of a result are shown as they are; nothing is rounded but for the 16 characters that DICOM gives a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from medseg_core.files import write_atomic
from medseg_core.imaging.dicom.made import Maker, Meaning
from medseg_core.imaging.dicom.report_object import report_of
from medseg_core.imaging.dicom.scan import Series
from medseg_core.imaging.dicom.segmentation_object import segmentation_of
from medseg_core.imaging.dicom.sources import source_images
from medseg_core.imaging.measurements import Measurements

SEGMENTATION, REPORT = "segmentation.dcm", "report.dcm"


@dataclass(frozen=True)
class Found:
    """What a model found in one series."""

    labels: UInt8[np.ndarray, "i j k"]  # on the grid of the series: 0 background, 1.. in the order of `meanings`
    meanings: Sequence[Meaning]
    measurements: Mapping[str, Measurements]  # by name of the meaning
    remark: str = ""  # such as that the case is flagged; part of both objects' descriptions, 40 characters at most


def write_results(folder: Path, series: Series, found: Found, maker: Maker) -> tuple[Path, Path]:
    """Write the SEG and the SR that refers to it, each whole or not at all; returns their paths.

    Raises DataError leaves for a series that changed since it was read, UnusableFolderError.
    """
    sources = source_images(series)
    segmentation = segmentation_of(found.labels, sources, found.meanings, maker, remark=found.remark)
    report = report_of(segmentation, sources, found.meanings, found.measurements, maker, remark=found.remark)
    paths = folder / SEGMENTATION, folder / REPORT
    for path, dataset in zip(paths, (segmentation, report), strict=True):
        write_atomic(path, _bytes_of(dataset))
    return paths
