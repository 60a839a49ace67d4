"""The answer of a run: does federation pay here, and what stands against believing it.

In: the summary and the scores of cases. Out: one sentence and a list of cautions. "Pays" and "does not pay"
need a 95 % interval over six patients or more that leaves zero out; everything else is "no clear answer".
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from medseg_core.assessment.report_text import counted, isolated, listing, number, signed, signed_between
from medseg_core.assessment.scores import (
    CaseScores,
    PairedDifference,
    by_site,
    own_site_cases,
    paired_difference,
)
from medseg_core.assessment.summary import Summary
from medseg_core.config import KEEP_TENSORS

# Of five without a difference, chance puts all on one side in 6 % of all runs, which is more than 5 %.
FEWEST_PATIENTS = 6
VISIBLE = 0.0005  # Dice: reports show a thousandth, and decide on nothing that they do not show
FEW_PATIENTS = (
    10  # below this a percentile bootstrap is too narrow by a fifth and more (Hesterberg 2015, 4.1)
)


@dataclass(frozen=True)
class Gains:
    """Shared model minus the others in Dice, and personal minus shared, on the same cases. None: not in this run."""

    over_local: PairedDifference | None
    over_pooled: PairedDifference | None
    at_sites: Mapping[str, PairedDifference]  # over the site's own model
    of_personal: PairedDifference | None = None  # the sites' personal models minus the shared one
    of_personal_at: Mapping[str, PairedDifference] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The headline sentence in two parts, and the reservations."""

    answer: str
    grounds: str
    cautions: tuple[str, ...]


def find_gains(summary: Summary, models: Mapping[str, Sequence[CaseScores]], *, samples: int) -> Gains:
    """What the shared model gains over each baseline, with intervals where the scores of cases are there."""
    shared, local = models.get("global", []), own_site_cases(models)
    sites, own = by_site(shared), by_site(local)
    paired = partial(paired_difference, seed=summary.seed, samples=samples)
    at_sites = {site: paired(cases, own.get(site, [])) for site, cases in sites.items()}
    personal = models.get("personal", [])
    personal_at = {site: paired(cases, sites.get(site, [])) for site, cases in by_site(personal).items()}
    return Gains(
        paired(shared, local),
        paired(shared, models.get("pooled", [])),
        {site: gain for site, gain in at_sites.items() if gain is not None},
        paired(personal, shared),
        {site: gain for site, gain in personal_at.items() if gain is not None},
    )


def judge(summary: Summary, gains: Gains) -> Verdict:
    """The verdict on a run."""
    if not summary.is_simulated:
        return _of_hospitals(summary, gains)
    compared = [
        _clause(block.mean.dice, gain, where)
        for block, gain, where in (
            (summary.local, gains.over_local, "where each site trains alone"),
            (summary.pooled, gains.over_pooled, "with all data in one place"),
        )
        if block is not None and gain is not None
    ]
    grounds = f"the shared model reaches a Dice of {number(summary.shared.mean.dice)}"
    grounds += f", against {' and '.join(compared)}" if compared else ""
    if summary.personal is not None and gains.of_personal is not None:
        where = "where each site makes it its own"
        grounds += f"; {_clause(summary.personal.mean.dice, gains.of_personal, where)}"
    if gains.over_local is None:
        grounds += "; no site trained alone to compare it with (run with --baselines local,pooled)"
    answer = _answer(gains.over_local) if len(summary.sites) > 1 else "One site makes no federation"
    return Verdict(answer, f"{grounds}.", tuple(_cautions(summary, gains)))


def _of_hospitals(summary: Summary, gains: Gains) -> Verdict:
    """What a run across hospitals can say: how good the shared model is, and nothing of the other models."""
    scores, worst = summary.shared.sites, summary.shared.worst_site
    best = max(scores, key=lambda site: (scores[site].dice, site))
    grounds = f"it reaches a Dice of {number(summary.shared.mean.dice)} over "
    grounds += counted(sum(own.n_cases for own in scores.values()), "test case")
    if len(scores) > 1:
        grounds += f", from {number(worst.dice)} at {isolated(worst.site)}"
        grounds += f" to {number(scores[best].dice)} at {isolated(best)}"
    if summary.personal is not None:
        grounds += f"; {number(summary.personal.mean.dice)} where each site makes it its own"
    answer = f"One shared model from {counted(len(summary.sites), 'hospital')}"
    return Verdict(answer, f"{grounds}.", tuple(_cautions(summary, gains)))


def _answer(over_local: PairedDifference | None) -> str:
    """The headline: decided only where the interval leaves zero out, and rests on enough patients."""
    match over_local:
        case None:
            return "Whether federation pays here is open"
        case PairedDifference(dice=dice, n_patients=n) if n < FEWEST_PATIENTS or abs(dice) < VISIBLE:
            return "No clear answer whether federation pays here"
        case PairedDifference(low=float(low)) if low > 0:
            return "Federation pays here"
        case PairedDifference(high=float(high)) if high < 0:
            return "Federation does not pay here"
        case _:
            return "No clear answer whether federation pays here"


def _clause(dice: float, gain: PairedDifference, where: str) -> str:
    """0.827 where each site trains alone (difference +0.031, 95 % interval +0.020 to +0.042)."""
    interval = signed_between(gain.low, gain.high)
    rest = f"95 % interval {interval}" if interval else "one patient, so no interval"
    if 1 < gain.n_patients < FEWEST_PATIENTS:
        rest += f" over {gain.n_patients} patients, which are too few for an answer"
    return f"{number(dice)} {where} (difference {signed(gain.dice)}, {rest})"


def _cautions(summary: Summary, gains: Gains) -> Iterator[str]:
    """What a reader should know before believing the headline."""
    sites = summary.shared.sites
    if summary.algorithm in KEEP_TENSORS:
        yield f"Each site was scored with the shared model and tensors of its own ({summary.algorithm})."
    losing = [
        f"{isolated(site)} ({signed(gain.dice)})" for site, gain in gains.at_sites.items() if gain.dice < 0
    ]
    if losing:
        yield f"The shared model scores below the site's own at {listing(losing)}."
    few = [
        f"{isolated(site)} ({own.n_patients})" for site, own in sites.items() if own.n_patients < FEW_PATIENTS
    ]
    if few:
        yield f"Fewer than {FEW_PATIENTS} test patients at {listing(few)}: intervals there are too narrow."
    yield from _absences(summary)
    if summary.untested:
        yield f"No test scores from {listing([isolated(site) for site in sorted(summary.untested)])}."
    n_empty = sum(scores.n_empty for scores in sites.values())
    if n_empty:
        yield f"{counted(n_empty, 'structure')} missed or invented as a whole by the shared model."
    if not summary.is_simulated:
        yield "No hospital's own model was trained beside it: whether federation pays is not answered here."
    elif summary.partition != "natural":
        yield (
            f"The sites are virtual: one data set was divided ({summary.partition}). "
            "Real hospitals differ more, in scanners, patients and annotation."
        )
    yield "Intervals cover the choice of test patients, not of the seed: repeat the run with other seeds."


def _absences(summary: Summary) -> Iterator[str]:
    """How often each site was missing."""
    rounds = [entry for fold in summary.rounds_by_fold for entry in fold]
    missed = Counter(site for entry in rounds for site in entry.absent)
    if missed:
        names = [f"{isolated(site)} {n}" for site, n in missed.most_common()]
        yield f"Rounds missed, of {len(rounds)}: {listing(names)}."
