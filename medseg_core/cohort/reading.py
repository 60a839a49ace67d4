"""How the files of a case are read: in the label values of its site, and as a scanner would show them."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from medseg_core.cohort.loading import load_case
from medseg_core.config import Task
from medseg_core.types import Case, LoadedCase, Volume


@runtime_checkable
class Scanner(Protocol):
    """Something that changes images as they are read."""

    @property
    def identity(self) -> str:
        """What decides the change, beside image and case: part of the cache's key."""
        ...

    def rescan(self, image: Volume, case_id: str) -> Volume:
        """The image as this scanner shows it, on the same grid. Deterministic."""
        ...


@dataclass(frozen=True)
class Reading:
    """The task in the label values of the case's site; with a scanner, its effects on images."""

    task: Task
    scanner: Scanner | None = None

    def load(self, case: Case) -> LoadedCase:
        """The case opened, checked and, if there is a scanner, changed. Raises CaseError leaves."""
        loaded = load_case(case, self.task)
        if self.scanner is None:
            return loaded
        return replace(loaded, image=self.scanner.rescan(loaded.image, case.case_id))
