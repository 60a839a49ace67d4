"""A weighted sum whose bits do not depend on the order of its terms: 64-bit fixed point.

Each value times its integer weight is rounded once, to a multiple of the resolution, and added in int64. With
all weights together at most 2^20, a parameter (resolution 2^-40) may lie in (-8, 8) and a buffer, such as a
running variance (resolution 2^-24), in (-524288, 524288); what lies outside is refused before anything is
added. Integer addition is associative, so every order of arrival ends in the same bits.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg_core.federation.parts import on_parts
from medseg_core.federation.update import ModelSpec, Role, check_names_and_shapes, refused

WEIGHT_BITS = 20  # all weights of a round together: at most 2^20
FRACTION_BITS: dict[Role, int] = {"parameter": 40, "buffer": 24}
_BLOCK = 1 << 14  # elements: 128 KiB an array, so that the work of a block stays in the cache


def integer_weights(counts: Mapping[str, int]) -> dict[str, int]:
    """Weights proportional to the counts, none zero, together at most 2^20; multiples weigh the same.

    They are the counts over their greatest common divisor, exactly, wherever those fit, else scaled and
    rounded down. Raises UpdateError (bad_count).
    """
    for site, count in counts.items():
        if count < 1:
            raise refused("bad_count", f"site {site} counts {count} cases, at least 1 is needed")
    divisor = math.gcd(*counts.values()) or 1
    reduced = {site: count // divisor for site, count in counts.items()}
    total, limit = sum(reduced.values()), 2**WEIGHT_BITS
    if total <= limit:
        return reduced
    room = limit - len(reduced)  # one for each site that would be rounded down to zero
    return {site: max(1, count * room // total) for site, count in reduced.items()}


class ExactSum:
    """The running sum over the tensors of one model; holds one int64 for each of its numbers."""

    def __init__(self, spec: ModelSpec) -> None:
        self.weight = 0
        self._spec = spec
        self._sums = {name: np.zeros(math.prod(t.shape), np.int64) for name, t in spec.tensors.items()}

    def add(self, tensors: Mapping[str, npt.NDArray[Any]], weight: int) -> None:
        """Add `weight` times the tensors: all of them, or none when refused.

        Raises UpdateError (overflow, not_finite, bad_count, and those of names, types and shapes).
        """
        self.require_room(tensors, weight)
        self.add_fitting(tensors, weight)

    def add_fitting(self, tensors: Mapping[str, npt.NDArray[Any]], weight: int) -> None:
        """Add what `require_room` has looked at."""
        for name, tensor in tensors.items():
            _add_scaled(self._sums[name], tensor.reshape(-1), weight * 2.0 ** self._fraction_bits(name))
        self.weight += weight

    def require_room(self, tensors: Mapping[str, npt.NDArray[Any]], weight: int) -> None:
        """`add` would take these. Raises UpdateError as it does."""
        if weight < 1 or self.weight + weight > 2**WEIGHT_BITS:
            raise refused("bad_count", f"weight {weight} on top of {self.weight}")
        check_names_and_shapes(tensors, self._spec)
        for name, tensor in tensors.items():
            _check_range(name, tensor.reshape(-1), self._fraction_bits(name))

    def mean(self) -> dict[str, npt.NDArray[np.float32]]:
        """Sum over the weights that were really added; divided in float64, rounded to float32. It uses the sum up."""
        assert self.weight > 0
        means = {}
        for name, tensor in self._spec.tensors.items():
            scale = float(self.weight << self._fraction_bits(name))
            means[name] = np.empty(tensor.shape, np.float32)
            np.divide(self._sums.pop(name), scale, out=means[name].reshape(-1), casting="same_kind")
        return means

    def _fraction_bits(self, name: str) -> int:
        return FRACTION_BITS[self._spec.tensors[name].role]


def _check_range(name: str, values: npt.NDArray[np.float32], fraction_bits: int) -> None:
    """No sum of such values can overflow. Raises UpdateError (overflow, not_finite)."""
    limit = 2.0 ** (63 - WEIGHT_BITS - fraction_bits)
    ends = np.asarray(on_parts(values.size, lambda part: _ends(values[part])))
    if not np.isfinite(ends).all():
        raise refused("not_finite", f"tensor {name!r} holds NaN or infinity")
    if (largest := np.abs(ends).max(initial=0.0)) >= limit:
        raise refused("overflow", f"tensor {name!r} reaches {largest:.6g}, limit {limit:g}")


def _ends(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The smallest and the largest; NaN when one is among them."""
    with np.errstate(invalid="ignore"):
        return float(values.min()), float(values.max())


def _add_scaled(sums: npt.NDArray[np.int64], values: npt.NDArray[np.float32], factor: float) -> None:
    """sums += round(factor * values), block by block, with small temporaries.

    The product is exact in float64 where the factor is a weight times a power of two: 24 bits of the value and 20 of
    the weight are fewer than 53.
    """

    def add(part: slice) -> None:
        scaled, fixed = np.empty(_BLOCK, np.float64), np.empty(_BLOCK, np.int64)
        for at in range(part.start, part.stop, _BLOCK):
            block = slice(at, min(at + _BLOCK, part.stop))
            x, q = scaled[: block.stop - at], fixed[: block.stop - at]
            np.copyto(x, values[block])
            x *= factor
            np.rint(x, out=x)  # half to even
            np.copyto(q, x, casting="unsafe")
            sums[block] += q

    on_parts(values.size, add)
