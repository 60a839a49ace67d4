"""Folders that say by their arrangement which files belong together: Medical Segmentation Decathlon and nnU-Net raw."""

from pathlib import Path

from medseg_core.cohort.cases import Cohort
from medseg_core.config import Task
from medseg_core.data_errors import UnknownLayoutError


def read_layout(folder: Path, task: Task | None) -> Cohort:
    """The cohort of a folder without a manifest. Raises ManifestError leaves."""
    raise UnknownLayoutError(folder, 0)
