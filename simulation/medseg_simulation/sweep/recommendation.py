"""Which algorithm to take, and why, in words that the figures bear."""

from collections.abc import Callable, Iterator, Mapping

from medseg_core.assessment.report_text import counted, listing, number, signed, signed_between
from medseg_core.assessment.verdict import FEWEST_PATIENTS, VISIBLE
from medseg_simulation.sweep.results import Difference, Recommendation, Row, SettingResult

NONE = "No recommendation"
WORTH_TELLING = 1.1  # times the traffic or the time of the reference


def recommend(
    reference: str | None,
    settings: Mapping[str, SettingResult],
    over_reference: Mapping[str, Difference],
    *,
    seeds: int,
) -> Recommendation:
    """The best of those that are surely better than the reference; else the reference, which is the simplest."""
    cautions = list(_cautions(settings, over_reference, seeds=seeds))

    def told(algorithm: str | None, answer: str, grounds: str) -> Recommendation:
        others = _others(algorithm, over_reference) if algorithm else []
        return Recommendation(
            algorithm=algorithm, answer=answer, grounds=grounds, others=others, cautions=cautions
        )

    if reference is None:
        return told(None, NONE, "the sweep holds no fedavg to compare the algorithms with.")
    if not any(reference in setting.algorithms for setting in settings.values()):
        return told(None, NONE, f"{reference}, which the others are compared with, could not be run.")
    if not over_reference:
        return told(
            None, NONE, f"no other algorithm ran in every setting and with every seed, as {reference}."
        )
    where = f"over {counted(len(settings), 'setting')} and {counted(seeds, 'seed')}"
    better = {row: found for row, found in over_reference.items() if found.verdict == "better"}
    best = max(better or over_reference, key=lambda row: over_reference[row].dice)
    found = over_reference[best]
    compared = f"{signed(found.dice)} Dice against {reference} {where}{_interval(found)}"
    if better:
        price = _price(best, reference, settings)
        return told(best, f"Take {best}", f"it has the best mean of those surely better, {compared}{price}.")
    highest = f"the best mean of the others, {best}, is {compared}"
    if found.verdict == "worse":
        return told(reference, f"Stay with {reference}", f"{highest}: all others are worse.")
    return told(
        reference,
        f"No difference found, so stay with {reference}",
        f"{highest}{_doubt(found)}, and {reference} is the simplest.",
    )


def _doubt(found: Difference) -> str:
    """Why a difference is none."""
    if found.decided_low is None:
        return ""
    return ": no more than chance explains" if abs(found.dice) >= VISIBLE else ": nothing that a table shows"


def _interval(found: Difference) -> str:
    interval = signed_between(found.decided_low, found.decided_high)
    if interval:
        return f" (interval {interval})"
    return f" (fewer than {FEWEST_PATIENTS} test patients, so nothing is decided)"


def _price(row: str, reference: str, settings: Mapping[str, SettingResult]) -> str:
    """What it costs more than the reference, where that is worth telling."""
    pairs = [
        (setting.algorithms[row], setting.algorithms[reference])
        for setting in settings.values()
        if row in setting.algorithms and reference in setting.algorithms
    ]
    traffic = _ratio(pairs, lambda r: r.bytes_up + r.bytes_down)
    time = _ratio(pairs, lambda r: r.training_s.mean)
    told = [
        f"{number(ratio, 1)} times the {what}"
        for ratio, what in ((traffic, "traffic"), (time, "training time"))
        if ratio > WORTH_TELLING
    ]
    return f"; it takes {listing(told)}" if told else ""


def _ratio(pairs: list[tuple[Row, Row]], figure: Callable[[Row], float]) -> float:
    ours, theirs = (sum(figure(pair[side]) for pair in pairs) for side in (0, 1))
    return ours / theirs if theirs else 1.0


def _others(taken: str, over_reference: Mapping[str, Difference]) -> list[str]:
    """What helped too, what did not, and what did harm."""
    told = []
    headings = {
        "better": "Better, too",
        "no difference found": "Did not help (no difference found)",
        "worse": "Worse",
    }
    for verdict, heading in headings.items():
        alike = [row for row, d in over_reference.items() if d.verdict == verdict]
        rows = sorted(alike, key=lambda row: -over_reference[row].dice)
        if verdict == "better":
            rows = [row for row in rows if row != taken]
        if rows:
            names = [f"{row} ({signed(over_reference[row].dice)})" for row in rows]
            told.append(f"{heading}: {listing(names, most=99)}.")
    return told


def _cautions(
    settings: Mapping[str, SettingResult], over_reference: Mapping[str, Difference], *, seeds: int
) -> Iterator[str]:
    """What a reader should know before believing it."""
    failed = list(dict.fromkeys(row for setting in settings.values() for row in setting.failures))
    if failed:
        yield f"Could not be run everywhere, so left out of the comparison: {listing(failed, most=99)}."
    rows = [item for setting in settings.values() for item in setting.algorithms.items()]
    if personal := list(dict.fromkeys(name for name, row in rows if row.is_personal)):
        yield (
            f"Test scores of {listing(personal, most=99)} are those of the sites' own models, each on its own cases; "
            "their validation, curves and choice of candidates are those of the shared model."
        )
    if seeds == 1:
        yield "One seed: intervals cover the choice of test patients, not of seed and split. Repeat with more seeds."
    elif seeds < 5:
        yield f"{seeds} seeds say little about chance between seeds: intervals over so few are rough."
    if len(over_reference) > 1:
        yield (
            f"{len(over_reference)} algorithms are compared at once, so the intervals that decide are wider than 95 % "
            "ones (Bonferroni): small differences may be missed."
        )
    not_tuned = all(not row.tuning for setting in settings.values() for row in setting.algorithms.values())
    if not_tuned:
        yield "Nothing was tuned: another learning rate may change the order."
