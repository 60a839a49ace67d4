"""`topk`: the largest numbers alone, as int8. Source: Aji & Heafield 2017; with error feedback Stich et al. 2018."""

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medseg_core.federation.codecs.base import (
    Blocks,
    Entries,
    Numbers,
    quantised,
    require_names,
    scales_of,
    taken,
    taken_scales,
)
from medseg_core.federation.update import refused


class TopK:
    """The share `kept` of the numbers with the largest amounts; of equal ones the first."""

    error_feedback: ClassVar = True

    def __init__(self, kept: float) -> None:
        self._kept = kept

    def encode(self, numbers: Numbers, blocks: Blocks) -> dict[str, npt.NDArray[Any]]:
        """How many of each block are kept, where in it they lie, their steps; and a scale for each block."""
        places = self._largest(numbers)
        scales, of_block = scales_of(numbers, blocks), np.searchsorted(blocks.starts, places, "right") - 1
        return {
            "counts": np.bincount(of_block, minlength=len(blocks.starts)).astype(np.uint16),
            "places": (places - blocks.starts[of_block]).astype(np.uint8),
            "steps": quantised(numbers[places], scales[of_block]),
            "scales": scales,
        }

    def decode(self, entries: Entries, blocks: Blocks) -> Numbers:
        """Steps times scale where something was kept, else 0. Raises UpdateError (corrupt_payload)."""
        require_names(entries, {"counts", "places", "steps", "scales"})
        counts, scales = (
            taken(entries, "counts", np.uint16, len(blocks.starts)),
            taken_scales(entries, blocks),
        )
        n_kept = int(counts.sum(dtype=np.int64))
        inside = taken(entries, "places", np.uint8, n_kept)
        steps = taken(entries, "steps", np.int8, n_kept)
        of_block = np.repeat(np.arange(len(counts)), counts)
        places = blocks.starts[of_block] + inside
        if (inside >= blocks.lengths[of_block]).any() or (np.diff(places) <= 0).any():
            raise refused(
                "corrupt_payload", "a coded place is outside its block, or not behind the one before"
            )
        numbers = np.zeros(blocks.count, np.float32)
        numbers[places] = steps * scales[of_block]
        return numbers

    def _largest(self, numbers: Numbers) -> npt.NDArray[np.int64]:
        """Where the numbers lie that are kept, in ascending order."""
        wanted = math.ceil(self._kept * numbers.size)
        if wanted >= numbers.size:
            return np.arange(numbers.size)
        amounts = np.abs(numbers)
        least = np.partition(amounts, numbers.size - wanted)[numbers.size - wanted]
        above = np.flatnonzero(amounts > least)
        equal = np.flatnonzero(amounts == least)[: wanted - above.size]
        return np.sort(np.concatenate([above, equal]))
