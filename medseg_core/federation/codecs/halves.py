"""`fp16` and `bf16`: two bytes a number."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medseg_core.federation.codecs.base import Blocks, Entries, Numbers, require_names, taken


class Float16:
    """IEEE half precision, to nearest; what is beyond 65504 is held there."""

    error_feedback: ClassVar = True

    def encode(self, numbers: Numbers, _: Blocks) -> dict[str, npt.NDArray[Any]]:
        """One array of float16."""
        largest = np.float32(np.finfo(np.float16).max)
        return {"halves": np.clip(numbers, -largest, largest).astype(np.float16)}

    def decode(self, entries: Entries, blocks: Blocks) -> Numbers:
        """Exactly what the halves say. Raises UpdateError (corrupt_payload)."""
        require_names(entries, {"halves"})
        return taken(entries, "halves", np.float16, blocks.count).astype(np.float32)


class BFloat16:
    """The upper half of a float32, to nearest and even: its range, 8 bits of precision."""

    error_feedback: ClassVar = True

    def encode(self, numbers: Numbers, _: Blocks) -> dict[str, npt.NDArray[Any]]:
        """One array of the upper 16 bits, as uint16."""
        bits = np.ascontiguousarray(numbers).view(np.uint32)
        to_even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        largest = np.uint32(0x7F7F)  # without its sign: beyond lies infinity
        upper = ((bits & np.uint32(0x7FFFFFFF)) + to_even) >> np.uint32(16)
        sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
        return {"halves": (np.minimum(upper, largest) | sign).astype(np.uint16)}

    def decode(self, entries: Entries, blocks: Blocks) -> Numbers:
        """Exactly what the halves say. Raises UpdateError (corrupt_payload)."""
        require_names(entries, {"halves"})
        halves = taken(entries, "halves", np.uint16, blocks.count)
        return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
