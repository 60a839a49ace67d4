"""Which series `predict` reads: those in folders, or those that a query finds in the hospital's PACS."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg_client.pacs import SCHEME, FoundSeries, Pacs, SeriesQuery
from medseg_core.config import Task
from medseg_core.dicom_errors import SeriesChoiceError
from medseg_core.imaging.dicom.scan import Series, scan
from medseg_core.imaging.dicom.selection import MODALITIES, choose_series


@dataclass(frozen=True)
class SeriesCase:
    """Folders with the series of one case: one that holds all, or one for each channel; and a name for results."""

    name: str
    folders: tuple[Path, ...]

    def series(self, task: Task) -> tuple[Series, ...]:
        """One series for each channel; where one folder holds several, as the task chooses.

        Raises DicomError leaves.
        """
        if len(self.folders) > 1:
            return tuple(_only(scan(folder).series, folder) for folder in self.folders)
        folder, found = self.folders[0], scan(self.folders[0]).series
        if len(found) == len(task.channels) == 1:
            return found
        fitting = {c.name: choose_series(found, c).chosen for c in task.channels}
        return tuple(_only(some, folder, f" that fit channel {name}") for name, some in fitting.items())


def is_of_series(text: str) -> bool:
    """Whether an --image names series of DICOM: a query of the PACS, or folders joined by commas."""
    return text.startswith(SCHEME) or Path(text).is_dir() or all(Path(p).is_dir() for p in text.split(","))


def case_in(text: str) -> SeriesCase:
    """The case in one folder, or in several joined by commas; named after the first."""
    folders = [Path(text)] if Path(text).is_dir() else [Path(part) for part in text.split(",")]
    return SeriesCase(folders[0].absolute().name, tuple(folders))


def cases_of(text: str, task: Task, pacs: Callable[[], Pacs]) -> Iterator[SeriesCase]:
    """The case in folders, or each that a query finds; what was fetched is gone when the next case is asked for.

    Raises PacsError leaves, SeriesChoiceError.
    """
    if not text.startswith(SCHEME):
        yield case_in(text)
        return
    for found in _found(text, task, pacs()):
        with tempfile.TemporaryDirectory(prefix="medseg-") as folder:
            pacs().fetch_series(found, into := Path(folder) / "series")
            yield SeriesCase(found.series_uid, (into,))


def _found(text: str, task: Task, pacs: Pacs) -> tuple[FoundSeries, ...]:
    """Series that a query finds: of the model's modality, where there are any."""
    if len(task.channels) > 1:
        raise SeriesChoiceError(
            "the query of the PACS",
            f"the model reads {len(task.channels)} series of a case, and a query finds them one by one",
            "Fetch them into folders, and give those joined by commas",
        )
    found = pacs.find_series(SeriesQuery.parse(text))
    fitting = tuple(one for one in found if one.modality in MODALITIES.get(task.channels[0].modality, ()))
    return fitting or found


def _only(series: Sequence[Series], folder: Path, of_kind: str = "") -> Series:
    if len(series) != 1:
        raise SeriesChoiceError(
            folder,
            f"it holds {len(series)} series of images{of_kind} where one is needed",
            "Give a folder with the one series to segment; of a model with several channels, one folder for each, "
            "joined by commas",
        )
    return series[0]
