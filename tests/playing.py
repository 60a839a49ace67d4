"""Rounds of an algorithm on hand-made updates: a parameter `w` of two numbers and a buffer of one."""

import numpy as np

from medseg_core.federation.algorithms.base import Algorithm, ServerState
from medseg_core.federation.update import ClientUpdate, spec_of

START = {"w": np.array([1.0, 2.0], np.float32), "running_mean": np.array([10.0], np.float32)}
SPEC = spec_of(START, frozenset({"w"}))


def update(site: str, w: tuple[float, float], running_mean: float = 0.0, **more: object) -> ClientUpdate:
    tensors = {"w": np.array(w, np.float32), "running_mean": np.array([running_mean], np.float32)}
    return ClientUpdate(site, tensors, n_cases=1, **more)  # type: ignore[arg-type]


def play(
    algorithm: Algorithm,
    state: ServerState,
    *updates: tuple[ClientUpdate, int],
    attempt: int = 1,
    share: float = 1.0,
) -> ServerState:
    """The state after a round with these updates and their weights."""
    accumulator = algorithm.start(state, SPEC)
    accumulator.share = share
    for one, weight in updates:
        algorithm.add(accumulator, one, weight)
    counted = {one.site: (state.round + 1, attempt) for one, _ in updates}
    return algorithm.finish(accumulator, state, counted=counted)[0]
