"""How far the updates of a round point the same way, or against each other: noise does neither.

A direction stands for an update: every parameter, with a sign of its own, is added to one of 16,384 sums. Cosines
between directions are those between updates, give or take 1 / sqrt(16,384), and a round holds 64 KiB of each site.

Source: Weinberger et al. 2009 (feature hashing), section 3; signs and sums go by where a parameter stands.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from medseg_core.federation.update import ModelSpec, Tensors

Direction = npt.NDArray[np.float32]
FEWEST_SITES = 3  # in a round: of two, nobody knows which one is odd
_SUMS = 1 << 14
_BLOCK = 1 << 16  # parameters that are summed up at once
_SIGNS = np.tile(np.random.default_rng(20).choice(np.array([-1, 1], np.float32), _BLOCK), 2)
_STRIDE = 25_867  # by which the signs of a block are turned against those of the one before


def direction_of(update: Tensors, spec: ModelSpec) -> Direction:
    """The parameters of a finite update in 16,384 sums, of length 1; zeros where nothing moves.

    Buffers are left out: they are observed, not trained.
    """
    sums, turn = np.zeros(_SUMS), 0
    for name in sorted(update):
        if spec.tensors[name].role != "parameter":
            continue
        values = update[name].reshape(-1)
        for at in range(0, values.size, _BLOCK):
            block = values[at : at + _BLOCK]
            signed = block * _SIGNS[turn : turn + block.size]
            whole = block.size - block.size % _SUMS
            sums += signed[:whole].reshape(-1, _SUMS).sum(axis=0, dtype=np.float64)
            sums[: block.size - whole] += signed[whole:]
            turn = (turn + _STRIDE) % _BLOCK
    return _of_length_one(sums).astype(np.float32)


def agreements(directions: Mapping[str, Direction]) -> dict[str, float]:
    """The cosine of each site's update with the sum of the others' directions; nothing with fewer than three sites."""
    if len(directions) < FEWEST_SITES:
        return {}
    exact = {site: direction.astype(np.float64) for site, direction in sorted(directions.items())}
    total = np.sum(list(exact.values()), axis=0)
    return {site: float(own @ _of_length_one(total - own)) for site, own in exact.items()}


def agreement_by_chance(spec: ModelSpec) -> float:
    """The standard deviation of the agreement of noise."""
    return 1 / math.sqrt(max(1, min(spec.n_parameters, _SUMS)))


def _of_length_one(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = float(np.linalg.norm(sums))
    return sums / length if length else sums
