"""A case as the page sees it, whatever it is made of; and the one that is made of files which a list names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from medseg_client.review.labels import Labels, LabelSource
from medseg_client.review.pictures import Picture, open_picture
from medseg_core.types import Case


@runtime_checkable
class Reviewed(Protocol):
    """A case that may be looked at. Nothing of it is held between two calls."""

    @property
    def case_id(self) -> str:
        """Its name, safe in an address."""
        ...

    @property
    def about(self) -> str:
        """Where it is from, or what it is called elsewhere; may be empty."""
        ...

    @property
    def has_truth(self) -> bool:
        """Whether somebody has drawn on it."""
        ...

    @property
    def has_prediction(self) -> bool:
        """Whether there is a prediction, or a model makes one."""
        ...

    def picture(self) -> Picture:
        """Its image. Raises DataError leaves."""
        ...

    def labels(self, picture: Picture) -> Labels:
        """Its label maps. Raises DataError leaves, and what segmenting it raises."""
        ...


@dataclass(frozen=True)
class FileCase:
    """A case of a cohort, with label maps from `source`."""

    case: Case
    source: LabelSource
    channels: tuple[str, ...] = ()  # names that the list of cases gives

    @property
    def case_id(self) -> str:
        """As the list names it."""
        return self.case.case_id

    @property
    def about(self) -> str:
        """Its site."""
        return self.case.site

    @property
    def has_truth(self) -> bool:
        """Whether the list names a label file."""
        return self.case.label is not None

    @property
    def has_prediction(self) -> bool:
        """Whether there is a file, or a model."""
        return self.source.segment is not None or self.case_id in self.source.predictions.files

    def picture(self) -> Picture:
        """The image files on one grid."""
        return open_picture(self.case, self.source.task, self.channels)

    def labels(self, picture: Picture) -> Labels:
        """What `source` has of the case."""
        return self.source.open(self.case, picture)


def file_cases(
    cases: Sequence[Case], source: LabelSource, channels: tuple[str, ...] = ()
) -> tuple[Reviewed, ...]:
    """Cases of a cohort as the page sees them."""
    return tuple(FileCase(case, source, channels) for case in cases)
