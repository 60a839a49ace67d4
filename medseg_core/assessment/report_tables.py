"""What the report's tables show, worked out from the summary and the scores of cases: plain values, no markup."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from medseg_core.assessment.scores import CaseScores, own_site_cases
from medseg_core.assessment.summary import Contribution, Round, Summary

WORST_CASES = 10


@dataclass(frozen=True)
class Cell:
    """One model at one site of the matrix."""

    dice: float | None
    shade: float  # 0 for the lowest Dice of the matrix, 1 for the highest
    is_own: bool  # a site's own model on its own cases
    is_best: bool  # of the models at this site


@dataclass(frozen=True)
class WorstCase:
    """A case that the shared model does badly, and how the others do on it."""

    scores: CaseScores
    own_dice: float | None
    pooled_dice: float | None


@dataclass(frozen=True)
class Strip:
    """Consecutive rounds in which a site did, or did not, take part; in per cent of all rounds."""

    start: float
    width: float
    is_present: bool


@dataclass(frozen=True)
class SiteParticipation:
    """What one site did over the whole run."""

    site: str
    n_rounds: int
    cases: int  # a round, the largest
    seconds: float  # a round, mean
    bytes_up: int
    bytes_down: int
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class RoundEntry:
    """One round of the log; `fold` counts from 1, None without folds."""

    fold: int | None
    record: Round

    @property
    def name(self) -> str:
        """Its number; with folds `fold/round`."""
        return f"{self.fold}/{self.record.round}" if self.fold else str(self.record.round)

    @property
    def total(self) -> Contribution:
        """Sum over the sites, `seconds` the slowest of them."""
        return _total(list(self.record.contributed.values()), slowest=True)


@dataclass(frozen=True)
class Absence:
    """Rounds that a site missed for one reason."""

    site: str
    reason: str
    rounds: list[str]


def build_matrix(summary: Summary) -> dict[str, dict[str, Cell]]:
    """Model -> test site -> cell; the shared and the pooled model first. Empty where models stayed at home."""
    cross = summary.cross or {}
    values = [score.dice for row in cross.values() for score in row.values()]
    low, high = min(values, default=0.0), max(values, default=1.0)
    best = {
        site: max((row[site].dice for row in cross.values() if site in row), default=None)
        for site in summary.shared.sites
    }

    def cell(model: str, site: str) -> Cell:
        score = cross[model].get(site)
        dice = score.dice if score else None
        shade = (dice - low) / (high - low) if dice is not None and high > low else 0.0
        return Cell(dice, shade, model == f"local:{site}", dice is not None and dice == best[site])

    order = sorted(cross, key=lambda model: (model.startswith("local:"), model != "global", model))
    return {model: {site: cell(model, site) for site in summary.shared.sites} for model in order}


def find_worst_cases(models: Mapping[str, Sequence[CaseScores]]) -> list[WorstCase]:
    """The cases with the lowest Dice under the shared model, lowest first."""
    own = _dice_by_case(own_site_cases(models))
    pooled = _dice_by_case(models.get("pooled", ()))
    ranked = sorted(models.get("global", ()), key=lambda case: (case.dice, case.site, case.case_id))[
        :WORST_CASES
    ]
    return [WorstCase(case, own.get(_key(case)), pooled.get(_key(case))) for case in ranked]


def name_ranks(cases: Sequence[CaseScores]) -> list[tuple[str, CaseScores]]:
    """A site's cases from best to worst under one model, each with its rank in words."""
    ranked = sorted(cases, key=lambda case: (-case.dice, case.case_id))
    names = {len(ranked) // 2: "Median", len(ranked) - 1: "Worst", 0: "Best"}  # the later ones win
    if len(ranked) == 1:
        names = {0: "Only case"}
    return [(names.get(n, f"Rank {n + 1} of {len(ranked)}"), case) for n, case in enumerate(ranked)]


def list_rounds(summary: Summary) -> list[RoundEntry]:
    """Every round of every fold, in order."""
    return [
        RoundEntry(number if summary.folds else None, record)
        for number, fold in enumerate(summary.rounds_by_fold, start=1)
        for record in fold
    ]


def list_absences(summary: Summary) -> list[Absence]:
    """Absences by site and reason, in alphabetical order."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in list_rounds(summary):
        for site, reason in entry.record.absent.items():
            found.setdefault((site, reason), []).append(entry.name)
    return [Absence(site, reason, names) for (site, reason), names in sorted(found.items())]


def build_participation(summary: Summary) -> list[SiteParticipation]:
    """A line for each site of the run, also for one that never took part."""
    records = [entry.record for entry in list_rounds(summary)]
    return [
        _participation(site, [record.contributed.get(site) for record in records]) for site in summary.sites
    ]


def _participation(site: str, contributions: Sequence[Contribution | None]) -> SiteParticipation:
    given = [contribution for contribution in contributions if contribution is not None]
    total = _total(given, slowest=False)
    return SiteParticipation(
        site,
        n_rounds=len(given),
        cases=max((contribution.cases for contribution in given), default=0),
        seconds=total.seconds / max(len(given), 1),
        bytes_up=total.bytes_up,
        bytes_down=total.bytes_down,
        strips=tuple(_strips([contribution is not None for contribution in contributions])),
    )


def _strips(present: Sequence[bool]) -> Iterator[Strip]:
    start = 0
    for is_present, group in groupby(present):
        length = len(list(group))
        yield Strip(100 * start / len(present), 100 * length / len(present), is_present)
        start += length


def _total(contributions: Sequence[Contribution], *, slowest: bool) -> Contribution:
    seconds = [contribution.seconds for contribution in contributions]
    return Contribution(
        cases=sum(contribution.cases for contribution in contributions),
        seconds=max(seconds, default=0.0) if slowest else sum(seconds),
        bytes_up=sum(contribution.bytes_up for contribution in contributions),
        bytes_down=sum(contribution.bytes_down for contribution in contributions),
    )


def _dice_by_case(cases: Sequence[CaseScores]) -> dict[tuple[str, str], float]:
    return {_key(case): case.dice for case in cases}


def _key(case: CaseScores) -> tuple[str, str]:
    return case.site, case.case_id
