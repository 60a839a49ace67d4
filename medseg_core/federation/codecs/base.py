"""The contract of a codec, and the blocks that share a scale.

A codec writes the numbers of all parameters, one after the other, as a few arrays. What it cannot write is left over:
with error feedback a site adds that to its next update, so that nothing is lost, only late. A codec that is right on
average does without.
Source: Seide et al. 2014; Karimireddy et al. 2019 (error feedback fixes SignSGD).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from medseg_core.federation.update import refused

Numbers = npt.NDArray[np.float32]  # (n,)
Entries = Mapping[str, npt.NDArray[Any]]

BLOCK = 256  # numbers, at most: an index into one takes a byte
LARGEST = np.finfo(np.float32).max
_LARGEST_SCALE = np.nextafter(np.float32(LARGEST / 127), np.float32(0))  # 127 steps of it are finite


@dataclass(frozen=True)
class Blocks:
    """Runs of numbers that share a scale; none reaches from one tensor into the next."""

    starts: npt.NDArray[np.int64]  # (blocks,)
    lengths: npt.NDArray[np.int64]  # (blocks,), 1 to BLOCK

    @property
    def count(self) -> int:
        """How many numbers there are in all."""
        return int(self.lengths.sum())


@runtime_checkable
class Codec(Protocol):
    """Numbers as arrays, and back. Deterministic: equal numbers give equal arrays on every machine."""

    error_feedback: ClassVar[bool]  # whether a site adds what was left over to its next update

    def encode(self, numbers: Numbers, blocks: Blocks, /) -> dict[str, npt.NDArray[Any]]:
        """The arrays, by names without a slash. The numbers are finite."""
        ...

    def decode(self, entries: Entries, blocks: Blocks, /) -> Numbers:
        """The numbers in arrays of `encode`. Raises UpdateError (corrupt_payload) for any others."""
        ...


def blocks_of(sizes: Sequence[int]) -> Blocks:
    """The blocks of tensors of so many numbers."""
    lengths = np.array(
        [min(BLOCK, size - start) for size in sizes for start in range(0, size, BLOCK)], np.int64
    )
    return Blocks(np.cumsum(lengths) - lengths, lengths)


def scales_of(numbers: Numbers, blocks: Blocks) -> npt.NDArray[np.float32]:
    """What one step of int8 means in each block: its largest number is 127."""
    if not blocks.starts.size:
        return np.zeros(0, np.float32)
    largest = np.maximum.reduceat(np.abs(numbers), blocks.starts)
    return np.asarray(np.minimum(largest / np.float32(127), _LARGEST_SCALE), np.float32)


def quantised(numbers: Numbers, scales: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """The nearest steps; each number with the scale of its block. 0 where that is 0."""
    steps = np.divide(numbers, scales, out=np.zeros_like(numbers), where=scales > 0)
    return np.clip(np.rint(steps), -127, 127).astype(np.int8)


def taken(entries: Entries, name: str, dtype: type[np.generic], count: int | None = None) -> npt.NDArray[Any]:
    """An array of a payload, of a type and length. Raises UpdateError (corrupt_payload)."""
    array = entries.get(name)
    if array is None or array.dtype != dtype or array.ndim != 1 or count not in (None, len(array)):
        found = "missing" if array is None else f"{array.dtype} {array.shape}"
        raise refused("corrupt_payload", f"coded {name} is {found}, expected {np.dtype(dtype)} ({count},)")
    return array


def taken_scales(entries: Entries, blocks: Blocks) -> npt.NDArray[np.float32]:
    """The scales of a payload. Raises UpdateError (corrupt_payload)."""
    scales = taken(entries, "scales", np.float32, len(blocks.lengths))
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise refused("corrupt_payload", "a coded scale is negative or not finite")
    return scales


def require_names(entries: Entries, names: set[str]) -> None:
    """No arrays besides. Raises UpdateError (corrupt_payload)."""
    if more := sorted(entries.keys() - names):
        raise refused("corrupt_payload", f"coded array {more[0]!r:.80} is not of this codec")
