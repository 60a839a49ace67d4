"""Tensors as bytes and back: float32 in the safetensors format, the same bytes for the same tensors."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from medseg_core.federation.update import ModelSpec, Tensors, check_names_and_shapes, refused
from medseg_core.learning.weights import join_kinds


def encode_tensors(tensors: Tensors) -> bytes:
    """The tensors in safetensors format, in the order of their names; equal tensors give equal bytes."""
    return safetensors.numpy.save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})


def decode_tensors(data: bytes, spec: ModelSpec) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors in bytes of `encode_tensors`, exactly those of the specification, copied once.

    Values are not looked at: that is `check_update`. Raises UpdateError (corrupt_payload, missing_tensor,
    extra_tensor, wrong_dtype, wrong_shape).
    """
    tensors = read_tensors(data)
    check_names_and_shapes(tensors, spec)
    return {name: tensors[name] for name in spec.tensors}


def encode_kinds(kinds: Mapping[str, Tensors], *, main: str) -> bytes:
    """Tensors of several kinds in safetensors format: those of `main` under their names, others as `kind/name`."""
    others = {kind: tensors for kind, tensors in kinds.items() if kind != main}
    return encode_tensors({**kinds[main], **join_kinds(others)})


def decode_kinds(data: bytes, specs: Mapping[str, ModelSpec], *, main: str) -> dict[str, Tensors]:
    """The tensors in bytes of `encode_kinds`, exactly those of each kind's specification.

    Raises UpdateError as `decode_tensors`.
    """
    found: dict[str, dict[str, npt.NDArray[np.float32]]] = {kind: {} for kind in specs}
    for name, tensor in read_tensors(data).items():
        kind, slash, own_name = name.partition("/")
        if slash and kind in specs and kind != main:
            found[kind][own_name] = tensor
        else:
            found[main][name] = tensor
    for kind, tensors in found.items():
        check_names_and_shapes(tensors, specs[kind])
    return {kind: {name: tensors[name] for name in specs[kind].tensors} for kind, tensors in found.items()}


def decode_model(
    data: bytes, spec: ModelSpec, *, besides: Collection[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """The model in bytes of `encode_kinds`, whether or not tensors of the kinds `besides` come with it.

    Raises UpdateError as `decode_tensors`.
    """
    found = {name: t for name, t in read_tensors(data).items() if name.partition("/")[0] not in besides}
    check_names_and_shapes(found, spec)
    return {name: found[name] for name in spec.tensors}


def read_tensors(data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """All float32 tensors in safetensors bytes. Raises UpdateError (corrupt_payload, wrong_dtype)."""
    try:
        entries: list[tuple[str, Mapping[str, Any]]] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise refused("corrupt_payload", f"not safetensors ({str(error)[:200]})") from None
    for name, entry in entries:
        if entry["dtype"] != "F32":
            raise refused("wrong_dtype", f"tensor {name!r:.80} is {entry['dtype']}, expected F32")
    try:
        return {name: np.frombuffer(entry["data"], "<f4").reshape(entry["shape"]) for name, entry in entries}
    except (ValueError, OverflowError):  # an empty tensor may claim sizes that no array can have
        raise refused("corrupt_payload", "a tensor's shape is impossible") from None
