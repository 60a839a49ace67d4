"""What a global model is known by."""

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def global_sha256(weights: Mapping[str, npt.NDArray[np.float32]]) -> str:
    """Identity of a global model: SHA-256 over names, shapes and little-endian bytes, names in order."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}\x00{list(weights[name].shape)}\x00".encode())
        digest.update(np.ascontiguousarray(weights[name], "<f4").data)
    return digest.hexdigest()
