"""`ternary`: of each block the sign of what is above its mean amount; about 1.4 bits a number.

Source: Li & Liu 2016 (ternary weight networks: the threshold); Vargaftik et al. 2021, 2022 (DRIVE, EDEN: the scale that
makes a coarse code right on average, here without their rotation; no error feedback with it).
"""

import zlib
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medseg_core.federation.codecs.base import (
    LARGEST,
    Blocks,
    Entries,
    Numbers,
    require_names,
    taken,
    taken_scales,
)
from medseg_core.federation.update import refused

_IN_BYTE = 5  # digits to the base of 3: 243 of a byte's 256 values
_PLACES = 3 ** np.arange(_IN_BYTE)
_DIGITS = (np.arange(3**_IN_BYTE)[:, None] // _PLACES % 3).astype(np.int8)  # of each byte


class Ternary:
    """-1, 0 or 1 for each number, times the scale with which the projection of the code on its block is that block.

    So what is left over stands at right angles to what was to be sent, and many of them cancel. With the mean amount of
    what is sent as scale each would fall short. Five numbers go into a byte, and Huffman's code makes frequent bytes
    short.
    """

    error_feedback: ClassVar = False

    def encode(self, numbers: Numbers, blocks: Blocks) -> dict[str, npt.NDArray[Any]]:
        """The bytes, compressed, and a scale for each block."""
        amounts = np.abs(numbers)
        means = (_sums(amounts, blocks) / np.maximum(blocks.lengths, 1)).astype(np.float32)
        of_block = np.repeat(means, blocks.lengths)
        np.divide(amounts, of_block, out=amounts, where=of_block > 0)  # in means: its square is near 1
        is_sent = amounts >= 1
        along = _sums(amounts * is_sent, blocks)
        scales = np.minimum(means * _sums(amounts * amounts, blocks) / np.maximum(along, 1), LARGEST)
        digits = np.zeros(-(-numbers.size // _IN_BYTE) * _IN_BYTE, np.uint8)
        digits[: numbers.size] = 1 + np.where(is_sent, np.sign(numbers), 0).astype(np.int8)
        packed = (digits.reshape(-1, _IN_BYTE) @ _PLACES).astype(np.uint8)
        squeeze = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
        squeezed = squeeze.compress(packed.tobytes()) + squeeze.flush()
        return {"digits": np.frombuffer(squeezed, np.uint8), "scales": scales.astype(np.float32)}

    def decode(self, entries: Entries, blocks: Blocks) -> Numbers:
        """Digits times scale. Raises UpdateError (corrupt_payload)."""
        require_names(entries, {"digits", "scales"})
        scales, squeezed = taken_scales(entries, blocks), taken(entries, "digits", np.uint8)
        packed = _expanded(squeezed.tobytes(), -(-blocks.count // _IN_BYTE))
        if packed.size and packed.max() >= len(_DIGITS):
            raise refused("corrupt_payload", "a coded byte holds no five digits")
        signs = _DIGITS[packed].reshape(-1)[: blocks.count] - np.int8(1)
        return np.asarray(signs * np.repeat(scales, blocks.lengths), np.float32)


def _sums(values: npt.NDArray[Any], blocks: Blocks) -> npt.NDArray[np.float64]:
    """The sum of each block."""
    if not blocks.starts.size:
        return np.zeros(0)
    return np.add.reduceat(values, blocks.starts, dtype=np.float64)


def _expanded(squeezed: bytes, size: int) -> npt.NDArray[np.uint8]:
    """So many bytes, and no more memory than that whatever was sent. Raises UpdateError (corrupt_payload)."""
    expand = zlib.decompressobj()
    try:
        data = expand.decompress(squeezed, size + 1)
    except zlib.error as error:
        raise refused("corrupt_payload", f"coded digits do not expand ({error})") from None
    if len(data) != size or not expand.eof or expand.unused_data:
        raise refused("corrupt_payload", f"coded digits expand to other than {size} bytes")
    return np.frombuffer(data, np.uint8)
