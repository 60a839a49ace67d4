"""Which series `predict` reads: those in folders, or those that a query finds in the hospital's PACS."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medseg_client.pacs import SCHEME, FoundSeries, OnFile, Pacs, SeriesQuery
from medseg_core.config import Task
from medseg_core.dicom_errors import IncompleteSeriesError, SeriesChoiceError
from medseg_core.imaging.dicom.scan import Series, scan
from medseg_core.imaging.dicom.selection import MODALITIES, choose_series


@dataclass(frozen=True)
class FolderCase:
    """Folders with the series of one case: one that holds all, or one for each channel; and a name for results."""

    name: str
    folders: tuple[Path, ...]

    @property
    def origin(self) -> Path:
        """Where it comes from, for messages."""
        return self.folders[0]

    def uids(self, task: Task) -> tuple[str, ...]:
        """Of its series. Raises DicomError leaves."""
        return tuple(one.series_uid for one in self._series(task))

    @contextmanager
    def opened(self, task: Task) -> Iterator[tuple[Series, ...]]:
        """One series for each channel. Raises DicomError leaves."""
        yield self._series(task)

    def _series(self, task: Task) -> tuple[Series, ...]:
        """Where one folder holds several, as the task chooses."""
        if len(self.folders) > 1:
            return tuple(_only(_whole(folder), folder) for folder in self.folders)
        folder, found = self.folders[0], _whole(self.folders[0])
        if len(found) == len(task.channels) == 1:
            return found
        fitting = {c.name: choose_series(found, c).chosen for c in task.channels}
        return tuple(_only(some, folder, f" that fit channel {name}") for name, some in fitting.items())


@dataclass(frozen=True)
class PacsCase:
    """A series of the PACS, named by its UID. Its files lie in `work`, which is its own, as long as it is open."""

    found: FoundSeries
    pacs: Pacs
    work: Path
    on_file: OnFile = lambda: None  # told of each that is fetched

    @property
    def name(self) -> str:
        """Of its results."""
        return self.found.series_uid

    @property
    def origin(self) -> Path:
        """Where it comes from, for messages."""
        return Path(self.name)

    def uids(self, task: Task) -> tuple[str, ...]:  # noqa: ARG002 - known without a look at files
        """Of its series."""
        return (self.found.series_uid,)

    @contextmanager
    def opened(self, task: Task) -> Iterator[tuple[Series, ...]]:
        """Fetch it. Raises PacsError and DicomError leaves, UnusableFolderError."""
        try:
            self.work.mkdir(mode=0o700, parents=True)
            self.pacs.fetch_series(self.found, into := self.work / "series", self.on_file)
            with FolderCase(self.name, (into,)).opened(task) as series:
                yield series
        finally:
            shutil.rmtree(self.work, ignore_errors=True)


SeriesCase = FolderCase | PacsCase


def is_of_series(text: str) -> bool:
    """Whether an --image names series of DICOM: a query of the PACS, or folders joined by commas."""
    return text.startswith(SCHEME) or Path(text).is_dir() or all(Path(p).is_dir() for p in text.split(","))


def cases_of(
    text: str, task: Task, pacs: Callable[[], Pacs], work: Path, on_file: OnFile
) -> tuple[SeriesCase, ...]:
    """The case in folders, or those that a query finds, which are fetched into `work` one by one.

    Raises PacsError leaves, SeriesChoiceError.
    """
    if text.startswith(SCHEME):
        return tuple(PacsCase(found, pacs(), work, on_file) for found in _found(text, task, pacs()))
    folders = [Path(text)] if Path(text).is_dir() else [Path(part) for part in text.split(",")]
    return (FolderCase(folders[0].absolute().name, tuple(folders)),)


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


def _whole(folder: Path) -> tuple[Series, ...]:
    """The series of images in a folder. Raises IncompleteSeriesError where one may lack a slice, NotDicomError."""
    found = scan(folder)
    if lost := found.lost:
        n_images = sum(len(one.files) for one in found.series)
        raise IncompleteSeriesError(lost[0].path, lost[0].reason, len(lost), n_images + len(lost))
    return found.series


def _only(series: Sequence[Series], folder: Path, of_kind: str = "") -> Series:
    if len(series) != 1:
        raise SeriesChoiceError(
            folder,
            f"it holds {len(series)} series of images{of_kind} where one is needed",
            "Give a folder with the one series to segment; of a model with several channels, one folder for each, "
            "joined by commas",
        )
    return series[0]
