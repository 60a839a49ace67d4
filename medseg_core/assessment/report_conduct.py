"""The report's table of misbehaviour: what sites were made to do wrong, and whom the server suspects."""

from collections.abc import Mapping
from dataclasses import dataclass

from medseg_core.assessment.summary import Summary
from medseg_core.config import FaultKind

MADE_TO: Mapping[FaultKind, str] = {
    "label_flip": "train on exchanged labels",
    "sign_flip": "send the update with its sign turned",
    "scale": "send the update many times as long",
    "noise": "send noise with the update",
    "nan": "send numbers that are not finite",
    "backdoor": "teach the model a back door",
    "free_rider": "send the model back without training",
    "drop_out": "be away in some rounds",
    "straggler": "answer too late in some rounds",
    "drift": "train on images that change over the rounds",
}
SUSPICIONS = {
    "small_updates": "updates far too small for its cases: it may not have trained",
    "noise": "updates that have nothing in common with the others': it may have sent noise",
    "against_the_others": "updates that point against the others': turned signs, or other labels or images",
}


@dataclass(frozen=True)
class ConductLine:
    """A site that misbehaved or is suspected; empty where it did not, or is not."""

    site: str
    made_to: str
    suspicion: str
    rounds: list[str]  # of the suspicion; with folds `fold/round`


def build_conduct(summary: Summary) -> list[ConductLine]:
    """A line for each such site, in alphabetical order; none where all is well."""
    reasons: dict[str, str] = {}
    rounds: dict[str, list[str]] = {}
    for number, fold in enumerate(summary.suspects_by_fold, start=1):
        for site, suspect in fold.items():
            reasons[site] = SUSPICIONS.get(suspect.reason, suspect.reason)
            named = [f"{number}/{n}" if summary.folds else str(n) for n in suspect.rounds]
            rounds.setdefault(site, []).extend(named)
    faults = summary.faults
    made_to = dict.fromkeys(faults.sites, MADE_TO[faults.kind]) if faults else {}
    return [
        ConductLine(site, made_to.get(site, ""), reasons.get(site, ""), rounds.get(site, []))
        for site in sorted({*made_to, *reasons})
    ]
