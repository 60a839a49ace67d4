"""Whether a NIfTI header says where left is, and says it once."""

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

_SIZE = 348  # of the header, NIfTI-1
_AXES = (("right", "left"), ("anterior", "posterior"), ("superior", "inferior"))  # NIfTI's: + and -


def orientation_doubt(path: Path) -> str | None:
    """What stands against believing the orientation of a whole NIfTI-1 file; None where nothing does, or it is 2D.

    Two forms that turn an image by little are common, and no doubt: one is of the scanner, the other of an atlas.
    Source: nifti1.h, methods 1 to 3.
    """
    with path.open("rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if is_compressed else path.open("rb") as file:
        header = file.read(_SIZE)
    order = "<" if header[:4] == struct.pack("<i", _SIZE) else ">"
    if (
        struct.unpack(f"{order}i", header[:4])[0] != _SIZE
        or struct.unpack_from(f"{order}h", header, 40)[0] < 3
    ):
        return None
    qform_code, sform_code = struct.unpack_from(f"{order}2h", header, 252)
    if qform_code <= 0 and sform_code <= 0:
        return "its header has neither sform nor qform, so that nothing says which side is left"
    if qform_code <= 0 or sform_code <= 0:
        return None
    by_qform, by_sform = _sides(_qform(header, order)), _sides(_sform(header, order))
    if by_qform == by_sform:
        return None
    return f"its sform says that axes lead {', '.join(by_sform)}, its qform {', '.join(by_qform)}"


def _sform(header: bytes, order: str) -> npt.NDArray[np.float64]:
    return np.array(struct.unpack_from(f"{order}12f", header, 280)).reshape(3, 4)[:, :3]


def _qform(header: bytes, order: str) -> npt.NDArray[np.float64]:
    """The rotation of the quaternion, its third axis turned where the file is left-handed."""
    b, c, d = struct.unpack_from(f"{order}3f", header, 256)
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    is_left_handed = struct.unpack_from(f"{order}f", header, 76)[0] < 0
    return rotation * (1, 1, -1 if is_left_handed else 1)


def _sides(directions: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Where each axis of the file leads, by the side that it is nearest to."""
    nearest = np.abs(directions).argmax(axis=0)
    return tuple(
        _AXES[side][0 if directions[side, axis] > 0 else 1] for axis, side in enumerate(nearest.tolist())
    )
