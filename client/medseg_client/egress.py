"""The one way out of a site: every envelope is checked here before it is released."""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from medseg_core.federation.codec import encode_tensors
from medseg_core.federation.update import ModelSpec, check_update
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope, seal
from medseg_core.wire.header import Header, refusal_to, reply_to

Tensors = Mapping[str, npt.NDArray[np.float32]]


def release_update(
    request: Header,
    update: Tensors,
    spec: ModelSpec,
    *,
    counts: Mapping[str, int],
    scalars: Mapping[str, float],
    key: Ed25519PrivateKey,
) -> Envelope:
    """A signed training reply: only tensors of the global model, finite.

    Raises UpdateError before anything is signed.
    """
    norm = check_update(update, spec, max_norm=None)
    header = reply_to(request, counts=counts, scalars=_defined({**scalars, "update_norm": norm}))
    return seal(header, encode_tensors(update), key)


def release_figures(
    request: Header, *, counts: Mapping[str, int], scalars: Mapping[str, float | None], key: Ed25519PrivateKey
) -> Envelope:
    """A signed reply of figures alone. A figure that is not finite leaves as null."""
    return seal(reply_to(request, counts=counts, scalars=_defined(scalars)), b"", key)


def release_refusal(request: Header, code: RefusalCode, key: Ed25519PrivateKey) -> Envelope:
    """A signed refusal: a code, no text."""
    return seal(refusal_to(request, code), b"", key)


def _defined(scalars: Mapping[str, float | None]) -> dict[str, float | None]:
    """Figures that are not finite as null."""
    return {name: v if v is not None and math.isfinite(v) else None for name, v in scalars.items()}
