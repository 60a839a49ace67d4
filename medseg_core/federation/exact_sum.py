"""A weighted sum whose bits do not depend on the order of its terms: 64-bit fixed point.

Each value times its integer weight is rounded once, to a multiple of the resolution, and added in int64. With
all weights together at most 2^20, a parameter (resolution 2^-40) may lie in (-8, 8) and a buffer, such as a
running variance (resolution 2^-24), in (-524288, 524288); what lies outside is refused before anything is
added. Integer addition is associative, so every order of arrival ends in the same bits.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg_core.federation.parts import on_parts
from medseg_core.federation.update import ModelSpec, Role, check_names_and_shapes, refused

WEIGHT_BITS = 20  # all weights of a round together: at most 2^20
FRACTION_BITS: dict[Role, int] = {"parameter": 40, "buffer": 24}
_BLOCK = 1 << 18  # elements: with fewer, threads spend their time on taking turns in the interpreter
# float64 has no fractions there: adding it rounds, half to even, and leaves an integer in the low bits
_LIFT = 1.5 * 2.0**52
_LIFT_BITS = int(np.float64(_LIFT).view(np.int64))
_LIFTED_MOST = 2.0**51  # what is added to it must be smaller


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
        self._lifts = dict.fromkeys(spec.tensors, 0)  # times that each sum holds _LIFT_BITS besides

    def add(self, tensors: Mapping[str, npt.NDArray[Any]], weight: int) -> None:
        """Add `weight` times the tensors: all of them, or none when refused.

        Raises UpdateError (overflow, not_finite, bad_count, and those of names, types and shapes).
        """
        self.add_fitting(tensors, weight, self.require_room(tensors, weight))

    def add_fitting(
        self, tensors: Mapping[str, npt.NDArray[Any]], weight: int, largest: Mapping[str, float]
    ) -> None:
        """Add what `require_room` has looked at; `largest` is what it gave."""
        factors = {name: weight * 2.0 ** self._fraction_bits(name) for name in tensors}
        is_small = {name: largest[name] * factor < _LIFTED_MOST for name, factor in factors.items()}
        flat = {name: (self._sums[name], tensor.reshape(-1)) for name, tensor in tensors.items()}
        on_parts(_add, flat, {name: (factors[name], is_small[name]) for name in tensors})
        for name in tensors:
            self._lifts[name] += is_small[name]
        self.weight += weight

    def require_room(self, tensors: Mapping[str, npt.NDArray[Any]], weight: int) -> dict[str, float]:
        """The largest absolute value of each tensor, where `add` would take them. Raises UpdateError as it does."""
        if weight < 1 or self.weight + weight > 2**WEIGHT_BITS:
            raise refused("bad_count", f"weight {weight} on top of {self.weight}")
        check_names_and_shapes(tensors, self._spec)
        ends = on_parts(_ends, {name: [tensor.reshape(-1)] for name, tensor in tensors.items()})
        return {name: _largest(name, its, self._fraction_bits(name)) for name, its in ends.items()}

    def mean(self) -> dict[str, npt.NDArray[np.float32]]:
        """Sum over the weights that were really added; divided in float64, rounded to float32. It uses the sum up."""
        assert self.weight > 0
        means = {}
        for name, tensor in self._spec.tensors.items():
            scale = float(self.weight << self._fraction_bits(name))
            lifted = np.uint64(self._lifts[name] * _LIFT_BITS % 2**64).astype(np.int64)
            means[name] = np.empty(tensor.shape, np.float32)
            dividing = {name: (self._sums.pop(name), means[name].reshape(-1))}
            on_parts(_divide, dividing, {name: (lifted, scale)})
        return means

    def _fraction_bits(self, name: str) -> int:
        return FRACTION_BITS[self._spec.tensors[name].role]


def _largest(name: str, ends: Sequence[tuple[float, float]], fraction_bits: int) -> float:
    """The largest absolute value; no sum of such values can overflow. Raises UpdateError (overflow, not_finite)."""
    limit = 2.0 ** (63 - WEIGHT_BITS - fraction_bits)
    if not np.isfinite(ends).all():
        raise refused("not_finite", f"tensor {name!r} holds NaN or infinity")
    if (largest := float(np.abs(ends).max(initial=0.0))) >= limit:
        raise refused("overflow", f"tensor {name!r} reaches {largest:.6g}, limit {limit:g}")
    return largest


def _ends(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The smallest and the largest; NaN when one is among them."""
    with np.errstate(invalid="ignore"):
        return float(values.min()), float(values.max())


def _add(sums: npt.NDArray[np.int64], values: npt.NDArray[np.float32], factor: float, is_small: bool) -> None:
    """sums += round(factor * values), half to even.

    Where all products are below 2^51 they are lifted, which is quicker: sums then hold `_LIFT_BITS` besides, modulo
    2^64.
    """
    for block, scaled in _scaled_blocks(values, factor):
        if is_small:
            scaled += _LIFT
            sums[block] += scaled.view(np.int64)
        else:
            sums[block] += np.rint(scaled, out=scaled).astype(np.int64)


def _scaled_blocks(
    values: npt.NDArray[np.float32], factor: float
) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Block by block, where it is and `factor` times its values, which the next one overwrites.

    The product is exact in float64 where the factor is a weight times a power of two: 24 bits of the value and 20 of
    the weight are fewer than 53.
    """
    scaled = np.empty(min(_BLOCK, values.size), np.float64)
    for at in range(0, values.size, _BLOCK):
        block = slice(at, min(at + _BLOCK, values.size))
        x = scaled[: block.stop - at]
        np.copyto(x, values[block])
        x *= factor
        yield block, x


def _divide(
    sums: npt.NDArray[np.int64], means: npt.NDArray[np.float32], lifted: np.int64, scale: float
) -> None:
    """means = the sums without their lifts over the scale, divided in float64. It changes the sums."""
    sums -= lifted
    np.divide(sums, scale, out=means, casting="same_kind")
