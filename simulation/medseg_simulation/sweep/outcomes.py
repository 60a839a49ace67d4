"""What the cells of a sweep gave: read from their folders, whenever they were run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from medseg_core.assessment.scores import CaseScores
from medseg_core.assessment.summary import Summary

Curve = Mapping[int, float]  # round -> validation Dice


@dataclass(frozen=True)
class Cell:
    """One algorithm, or the baselines, in one setting with one seed."""

    setting: str
    seed: int
    row: str

    @property
    def folder(self) -> str:
        """Its folder, relative to the sweep's."""
        return f"{self.setting}/seed-{self.seed}/{self.row}"

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.setting}, seed {self.seed}, {self.row}"


@dataclass(frozen=True)
class Choice:
    """Which candidate was taken, by the validation Dice of each; None for one that could not be trained."""

    chosen: int  # counted from 0
    validation_dice: tuple[float | None, ...] = ()

    @property
    def without_scores(self) -> "Choice":
        """The same candidate, where another seed chose it."""
        return Choice(self.chosen)

    @classmethod
    def best_of(cls, validation_dice: Sequence[float | None]) -> "Choice":
        """The highest; the first of equals."""
        known = [-1.0 if dice is None else dice for dice in validation_dice]
        return cls(known.index(max(known)), tuple(validation_dice))


@dataclass(frozen=True)
class Outcome:
    """A federation that was trained and tested: `cases` are of the models that sites use in the end.

    Where each has made the shared model its own, they are of those; validation and choice are of the shared one.
    """

    summary: Summary
    cases: Sequence[CaseScores]
    choice: Choice
    is_personal: bool = False

    @property
    def validation_dice(self) -> float:
        """Of the chosen round; with folds, their mean."""
        known = [b.validation_dice for b in self.summary.best_by_fold if b.validation_dice is not None]
        return sum(known) / len(known) if known else float("nan")

    @property
    def attack_success(self) -> float | None:
        """Of a back door, on the test cases; None where nobody tries one."""
        faults = self.summary.faults
        return faults.attack.success_rate if faults and faults.attack else None

    @property
    def curve(self) -> Curve:
        """Validation Dice by round; with folds, their mean."""
        return mean_curve(
            {p.round: p.validation_dice for p in fold.shared if p.validation_dice is not None}
            for fold in self.summary.curves_by_fold
        )


@dataclass(frozen=True)
class Baseline:
    """Pooled training, or all sites alone: scored on the same test cases as the federations."""

    cases: Sequence[CaseScores]  # local: each case under its own site's model
    curve: Curve
    choice: Choice


Baselines = Mapping[str, Baseline]  # pooled, local


@dataclass
class Outcomes:
    """All of them so far. A reason stands where a cell could not be done."""

    algorithms: dict[Cell, Outcome] = field(default_factory=dict)
    baselines: dict[Cell, Baselines] = field(default_factory=dict)
    failures: dict[Cell, str] = field(default_factory=dict)


def mean_curve(curves: Iterable[Curve]) -> dict[int, float]:
    """The mean at each round, of the curves that have it."""
    kept = list(curves)
    rounds = sorted({number for curve in kept for number in curve})
    values = {number: [curve[number] for curve in kept if number in curve] for number in rounds}
    return {number: sum(known) / len(known) for number, known in values.items()}
