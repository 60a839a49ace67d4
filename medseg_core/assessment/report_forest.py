"""Dice of every model at every site with its interval, on one axis: the forest plot of the report."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg_core.assessment.scores import CaseScores, PairedDifference, own_site_cases, patient_interval
from medseg_core.assessment.summary import ModelScores, Summary
from medseg_core.assessment.verdict import Gains
from medseg_core.seeding import derive_seed

STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)  # between ticks
MOST_TICKS = 7

Models = Mapping[str, Sequence[CaseScores]]


@dataclass(frozen=True)
class Mark:
    """One model's Dice and its 95 % interval; None with a single patient, or where cases stayed at their sites."""

    model: str  # global, personal, local or pooled
    dice: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ForestRow:
    """One site, or all: each model's mark, the gain of the shared model over training alone, of a personal over it."""

    name: str
    n_patients: int
    n_cases: int
    marks: tuple[Mark, ...]
    gain: PairedDifference | None
    personal_gain: PairedDifference | None = None


@dataclass(frozen=True)
class Axis:
    """A range of Dice and the values to mark on it."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Where a value lies, in per cent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)


@dataclass(frozen=True)
class Forest:
    """The rows of sites, the row of all cases, and their common axis."""

    axis: Axis
    sites: tuple[ForestRow, ...]
    overall: ForestRow


def build_forest(summary: Summary, models: Models, gains: Gains, *, samples: int) -> Forest:
    """Marks of the models that were trained, at each site and over all cases."""
    blocks = {
        "global": summary.shared,
        "personal": summary.personal,
        "local": summary.local,
        "pooled": summary.pooled,
    }
    trained = {name: block for name, block in blocks.items() if block is not None}
    sites = tuple(
        ForestRow(
            site,
            own.n_patients,
            own.n_cases,
            tuple(_site_marks(trained, site)),
            gains.at_sites.get(site),
            gains.of_personal_at.get(site),
        )
        for site, own in summary.shared.sites.items()
    )
    overall = ForestRow(
        "All cases",
        sum(row.n_patients for row in sites),
        sum(row.n_cases for row in sites),
        tuple(_overall_marks(trained, models, seed=summary.seed, samples=samples)),
        gains.over_local,
        gains.of_personal,
    )
    return Forest(_axis([mark for row in (*sites, overall) for mark in row.marks]), sites, overall)


def _site_marks(trained: Mapping[str, ModelScores], site: str) -> Iterator[Mark]:
    for name, block in trained.items():
        if own := block.sites.get(site):
            yield Mark(name, own.dice, own.dice_low, own.dice_high)


def _overall_marks(
    trained: Mapping[str, ModelScores], models: Models, *, seed: int, samples: int
) -> Iterator[Mark]:
    cases = {
        "global": models.get("global", ()),
        "personal": models.get("personal", ()),
        "local": own_site_cases(models),
        "pooled": models.get("pooled", ()),
    }
    for name, block in trained.items():
        rng = np.random.default_rng(derive_seed(seed, purpose="bootstrap"))
        dices = [case.dice for case in cases[name]]
        yield Mark(name, block.mean.dice, *patient_interval(cases[name], dices, samples=samples, rng=rng))


def _axis(marks: Sequence[Mark]) -> Axis:
    """The shortest range of round values that holds all intervals, with the finest steps that stay few."""
    values = [value for mark in marks for value in (mark.dice, mark.low, mark.high) if value is not None]
    for step in STEPS:
        first, last = math.floor(min(values) / step), math.ceil(max(values) / step)
        if last - first < MOST_TICKS:
            break
    last = max(last, first + 1)
    return Axis(first * step, last * step, tuple(round(n * step, 2) for n in range(first, last + 1)))
