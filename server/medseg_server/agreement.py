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
# So small that the sum of a block, in float32, stays finite where its numbers are
_SIGNS = np.tile(np.random.default_rng(20).choice(np.array([-1, 1], np.float32), _BLOCK), 2) * _SUMS / _BLOCK
_STRIDE = 25_867  # by which the signs of a block are turned against those of the one before


def direction_of(update: Tensors, spec: ModelSpec) -> Direction:
    """The parameters of a finite update in 16,384 sums, of length 1; zeros where nothing moves.

    Buffers are left out: they are observed, not trained.
    """
    sums = np.zeros(_SUMS)
    parameters = [name for name in sorted(update) if spec.tensors[name].role == "parameter"]
    for number, name in enumerate(parameters):
        sums += _sums_of(update[name].reshape(-1), number)
    return _of_length_one(sums).astype(np.float32)


def agreements(directions: Mapping[str, Direction]) -> dict[str, float]:
    """The cosine of each site's update with the sum of the others' directions; nothing with fewer than three sites."""
    if len(directions) < FEWEST_SITES:
        return {}
    total = np.zeros(_SUMS)
    for _, direction in sorted(directions.items()):
        total += direction
    return {site: float(own @ _of_length_one(total - own)) for site, own in sorted(directions.items())}


def agreement_by_chance(spec: ModelSpec) -> float:
    """The standard deviation of the agreement of noise."""
    return 1 / math.sqrt(max(1, min(spec.n_parameters, _SUMS)))


def _sums_of(values: npt.NDArray[np.float32], turns: int) -> npt.NDArray[np.float64]:
    """With signs that are turned so many times, once more for each block."""
    sums = np.zeros(_SUMS)
    for at in range(0, values.size, _BLOCK):
        block = values[at : at + _BLOCK]
        turned = (turns + at // _BLOCK) * _STRIDE % _BLOCK
        signs = _SIGNS[turned : turned + block.size]
        whole = block.size - block.size % _SUMS
        sums += np.einsum("ij,ij->j", block[:whole].reshape(-1, _SUMS), signs[:whole].reshape(-1, _SUMS))
        sums[: block.size - whole] += block[whole:] * signs[whole:]
    return sums


def _of_length_one(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = float(np.linalg.norm(sums))
    return sums / length if length else sums
