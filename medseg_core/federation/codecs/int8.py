"""`int8`: a byte a number, in blocks of up to 256 that share a scale. Source: Dettmers 2016; Dettmers et al. 2022."""

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


class Int8:
    """Steps of a 127th of the block's largest number, to nearest."""

    error_feedback: ClassVar = True

    def encode(self, numbers: Numbers, blocks: Blocks) -> dict[str, npt.NDArray[Any]]:
        """A byte for each number and a float32 for each block."""
        scales = scales_of(numbers, blocks)
        return {"steps": quantised(numbers, np.repeat(scales, blocks.lengths)), "scales": scales}

    def decode(self, entries: Entries, blocks: Blocks) -> Numbers:
        """Steps times scale. Raises UpdateError (corrupt_payload)."""
        require_names(entries, {"steps", "scales"})
        steps, scales = taken(entries, "steps", np.int8, blocks.count), taken_scales(entries, blocks)
        return steps * np.repeat(scales, blocks.lengths)
