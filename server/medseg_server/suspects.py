"""Sites whose updates look as if nobody had trained, or against the others: as far as the server sees them."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from medseg_server.agreement import FEWEST_SITES
from medseg_server.run import Record

SMALL_UPDATES = "small_updates"
TOO_SMALL = 0.1  # of the round's median: see `_small_updates`
NOISE = "noise"
FEWEST_ROUNDS = 3  # in one or two, a site that trains may look like noise by chance
LIKE_NOISE, CLEAR = 3.0, 6.0  # times what chance gives: see `_noise`
TOO_FAR = 0.1  # of the median over the sites
AGAINST = "against_the_others"
TURNED = -0.5  # of the median over the sites: see `_against`


def suspects(history: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Sites whose updates were far too small, noise or turned around, with the reason and the rounds."""
    agreements = _agreements(history)
    found = {
        AGAINST: _against(agreements),
        NOISE: _noise(agreements),
        SMALL_UPDATES: _small_updates(history),
    }
    named = {site: (reason, rounds) for reason, sites in found.items() for site, rounds in sites.items()}
    return {site: {"reason": reason, "rounds": rounds} for site, (reason, rounds) in sorted(named.items())}


def _small_updates(history: Sequence[Record]) -> Mapping[str, list[int]]:
    """Sites whose updates were too small in at least half of their rounds, and those rounds.

    The L2 norm of an update, by the square root of the site's cases, is below a tenth of the round's median. Over
    honest steps the norm grows as the number of steps, where they all point the same way, or as its square root, where
    they do not: by the root, sites a hundredfold apart in size stay within a tenth of each other either way.
    """
    seen: dict[str, list[tuple[int, bool]]] = {}
    for record in history:
        lengths = {
            site: facts["update_norm"] / math.sqrt(max(facts["cases"], 1))
            for site, facts in record["contributed"].items()
            if facts.get("update_norm")
            is not None  # an earlier release wrote down what a site told, or nothing
        }
        if len(lengths) < FEWEST_SITES:
            continue
        bound = TOO_SMALL * median(lengths.values())
        for site, length in lengths.items():
            seen.setdefault(site, []).append((record["round"], length < bound))
    small = {site: [number for number, is_small in rounds if is_small] for site, rounds in seen.items()}
    return {site: rounds for site, rounds in small.items() if rounds and 2 * len(rounds) >= len(seen[site])}


def _agreements(history: Sequence[Record]) -> dict[str, dict[int, float]]:
    """How far each site's updates agreed with the others', by round, in times what chance gives.

    Of sites that contributed to three rounds or more.
    """
    seen: dict[str, dict[int, float]] = {}
    for record in history:
        for site, facts in record["contributed"].items():
            if "agreement" in facts:  # not of an earlier release
                by_chance = facts["agreement"] / record["agreement_by_chance"]
                seen.setdefault(site, {})[record["round"]] = by_chance
    return {site: rounds for site, rounds in seen.items() if len(rounds) >= FEWEST_ROUNDS}


def _noise(agreements: Mapping[str, Mapping[int, float]]) -> Mapping[str, list[int]]:
    """Sites whose updates had nothing in common with the others', and their rounds.

    Updates of sites that train point the same way or, towards the end, against each other. The agreement of noise with
    the others is chance: its root mean square over the rounds, by what chance gives, is about 1. A site is named below
    3 or a tenth of the median over all sites, where that median is 6 or more.
    """
    far = {site: math.sqrt(fmean(x * x for x in rounds.values())) for site, rounds in agreements.items()}
    if not far or (usual := median(far.values())) < CLEAR:
        return {}
    return {site: list(agreements[site]) for site in far if far[site] < max(LIKE_NOISE, TOO_FAR * usual)}


def _against(agreements: Mapping[str, Mapping[int, float]]) -> Mapping[str, list[int]]:
    """Sites whose updates pointed against the others' on the whole, as with their signs turned, and those rounds.

    Their mean agreement is below minus half of the median over all sites, where that median is 6 times chance or more.
    """
    means = {site: fmean(rounds.values()) for site, rounds in agreements.items()}
    if not means or (usual := median(means.values())) < CLEAR:
        return {}
    return {
        site: [number for number, agreement in agreements[site].items() if agreement < 0]
        for site, mean in means.items()
        if mean < TURNED * usual
    }
