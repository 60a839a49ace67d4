"""What is asked of each site in a round, and of which state of its own that goes with a model."""

from collections.abc import Mapping

from medseg_core.federation.algorithms.base import ServerState
from medseg_core.wire.header import Header
from medseg_server.run import Record, Run

Update = tuple[int, int]  # round and attempt


def headers_of_round(
    run: Run,
    state: ServerState,
    attempt: int,
    *,
    to_train: tuple[str, ...],
    to_score: tuple[str, ...],
    kept: Mapping[str, Update],
) -> dict[str, Header]:
    """Requests that go with the model of a state; who scores but does not train is asked for the score alone.

    `kept` are the sites' updates whose state they are to keep besides.
    """
    headers = {}
    for site in to_train:
        kept_round, kept_attempt = kept.get(site, (0, 0))
        more = {**counted_in(state, site), "kept_round": kept_round, "kept_attempt": kept_attempt}
        split = "validation" if site in to_score else None
        headers[site] = run.header("train", site, state.round + 1, attempt, split=split, **more)
    if others := [site for site in to_score if site not in to_train]:
        attempt = run.next_attempt("evaluating_validation", state.round)
        for site in others:
            more = counted_in(state, site)
            headers[site] = run.header("evaluate", site, state.round, attempt, split="validation", **more)
    return headers


def counted_in(state: ServerState, site: str) -> dict[str, int]:
    """The fields of a request that name the site's last update in the model of a state."""
    counted_round, counted_attempt = state.counted.get(site, (0, 0))
    return {"counted_round": counted_round, "counted_attempt": counted_attempt}


def last_updates(history: list[Record], until: int) -> dict[str, Update]:
    """Each site's last update in the model of round `until`, from the records of all rounds."""
    return {
        site: (record["round"], record["attempt"])
        for record in history
        if record["round"] <= until
        for site in record["contributed"]
    }
