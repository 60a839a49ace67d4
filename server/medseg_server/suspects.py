"""Sites whose updates look as if nobody had trained: free riders, as far as the server sees them."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from medseg_server.run import Record

SMALL_UPDATES = "small_updates"
FEWEST_SITES = 3  # in a round: of two, nobody knows which one is odd
TOO_SMALL = 0.1  # of the round's median: see `suspects`


def suspects(history: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Sites whose updates were far too small in at least half of their rounds, with the reason and those rounds.

    The L2 norm of an update, by the square root of the site's cases, is below a tenth of the round's median. Over
    honest steps the norm grows as the number of steps, where they all point the same way, or as its square root, where
    they do not: by the root, sites a hundredfold apart in size stay within a tenth of each other either way.
    A free rider that sends noise as long as an update is not found by this.
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
    return {
        site: {"reason": SMALL_UPDATES, "rounds": rounds}
        for site, rounds in sorted(small.items())
        if rounds and 2 * len(rounds) >= len(seen[site])
    }
