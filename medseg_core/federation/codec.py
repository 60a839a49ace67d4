"""Tensors as bytes and back: float32 in the safetensors format, the same bytes for the same tensors.

By how much parameters move may be written by a codec instead (`codecs`): as arrays `coded/NAME`. Buffers, and tensors
of further kinds, stay float32.
"""

import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from medseg_core.federation.codecs import Codec
from medseg_core.federation.codecs.base import Blocks, Entries, blocks_of
from medseg_core.federation.safetensors_views import UnknownTypeError, safetensors_views
from medseg_core.federation.update import ModelSpec, Tensors, check_names_and_shapes, refused, spec_for
from medseg_core.learning.weights import join_kinds

CODED = "coded"  # before the names of a codec's arrays
# of a payload and for each tensor: far more than names, shapes and places take
_HEADER_BYTES, _HEADER_BYTES_EACH = 2**20, 2**10


def encode_tensors(tensors: Entries) -> bytes:
    """The tensors in safetensors format, in the order of their names; equal tensors give equal bytes."""
    return safetensors.numpy.save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})


def decode_tensors(data: bytes | memoryview, spec: ModelSpec) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors in bytes of `encode_tensors`, exactly those of the specification: views of the bytes, read-only.

    Values are not looked at: that is `check_update`. Raises UpdateError (corrupt_payload, missing_tensor,
    extra_tensor, wrong_dtype, wrong_shape).
    """
    tensors = read_tensors(data, n_expected=len(spec.tensors))
    check_names_and_shapes(tensors, spec)
    return {name: tensors[name] for name in spec.tensors}


def encode_kinds(kinds: Mapping[str, Entries], *, main: str) -> bytes:
    """Tensors of several kinds in safetensors format: those of `main` under their names, others as `kind/name`."""
    others = {kind: tensors for kind, tensors in kinds.items() if kind != main}
    return encode_tensors({**kinds[main], **join_kinds(others)})


def decode_kinds(
    data: bytes | memoryview,
    specs: Mapping[str, ModelSpec],
    *,
    main: str,
    codec: Codec | None = None,
    besides: Collection[str] = (),
) -> dict[str, Tensors]:
    """The tensors in bytes of `encode_kinds`, exactly those of each kind's specification.

    Those of `main` as `codec` wrote them. Whether or not there are tensors of the kinds `besides`, too.
    Raises UpdateError as `decode_tensors`.
    """
    n_expected = sum(len(spec.tensors) for spec in specs.values())
    entries = read_tensors(data, n_expected=n_expected) if codec is None else _entries(data, n_expected)
    entries = {name: array for name, array in entries.items() if name.partition("/")[0] not in besides}
    if codec is None:
        return _by_kind(entries, specs, main=main)
    coded = {n.removeprefix(f"{CODED}/"): a for n, a in entries.items() if n.startswith(f"{CODED}/")}
    names, blocks = _parameters(spec := specs[main])
    buffers = ModelSpec({name: tensor for name, tensor in spec.tensors.items() if tensor.role == "buffer"})
    rest = {name: array for name, array in entries.items() if not name.startswith(f"{CODED}/")}
    kinds = _by_kind(rest, {**specs, main: buffers}, main=main)
    with np.errstate(over="ignore"):  # a hostile scale: check_update tells
        numbers = codec.decode(coded, blocks)
    whole = {**kinds[main], **_split(numbers, names, spec)}
    return {**kinds, main: {name: whole[name] for name in spec.tensors}}


def _by_kind(entries: Entries, specs: Mapping[str, ModelSpec], *, main: str) -> dict[str, Tensors]:
    """Entries sorted into kinds, those without one into `main`, and checked."""
    found: dict[str, dict[str, npt.NDArray[Any]]] = {kind: {} for kind in specs}
    for name, tensor in entries.items():
        kind, slash, own_name = name.partition("/")
        if slash and kind in specs and kind != main:
            found[kind][own_name] = tensor
        else:
            found[main][name] = tensor
    for kind, tensors in found.items():
        check_names_and_shapes(tensors, specs[kind])
    return {kind: {name: tensors[name] for name in specs[kind].tensors} for kind, tensors in found.items()}


def code(update: Tensors, spec: ModelSpec, codec: Codec | None) -> tuple[Entries, Tensors]:
    """An update as it goes into a payload of `encode_kinds`, and as who decodes it will have it."""
    if codec is None:
        return update, update
    names, blocks = _parameters(spec)
    numbers = np.concatenate([update[name].reshape(-1) for name in names] or [np.zeros(0, np.float32)])
    entries = codec.encode(numbers, blocks)
    buffers = {n: update[n] for n, tensor in spec.tensors.items() if tensor.role == "buffer"}
    arrived = {**buffers, **_split(codec.decode(entries, blocks), names, spec)}
    coded = {f"{CODED}/{name}": entry for name, entry in entries.items()}
    return {**buffers, **coded}, {name: arrived[name] for name in spec.tensors}


def read_tensors(
    data: bytes | memoryview, *, n_expected: int | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """All float32 tensors in safetensors bytes; `n_expected` for bytes of somebody else, so that they cost no memory.

    Raises UpdateError (corrupt_payload, wrong_dtype).
    """
    entries = _entries(data, n_expected)
    for name, entry in entries.items():
        if entry.dtype != np.float32:
            raise refused("wrong_dtype", f"tensor {name!r:.80} is {entry.dtype}, expected float32")
    return entries


def _entries(data: bytes | memoryview, n_expected: int | None) -> dict[str, npt.NDArray[Any]]:
    """All arrays in safetensors bytes, views of them. Raises UpdateError (corrupt_payload, wrong_dtype)."""
    longest = None if n_expected is None else _HEADER_BYTES + n_expected * _HEADER_BYTES_EACH
    try:
        return safetensors_views(data, header_bytes_max=longest)
    except UnknownTypeError as error:
        raise refused(
            "wrong_dtype", f"tensor {error.name!r:.80} is {error.dtype:.20}, expected F32"
        ) from None
    except ValueError as error:
        raise refused("corrupt_payload", f"not safetensors ({str(error)[:200]})") from None


def _parameters(spec: ModelSpec) -> tuple[list[str], Blocks]:
    """Names of the parameters in the order in which a codec has their numbers, and the blocks of these."""
    parameters = spec_for("parameters", spec).tensors
    return list(parameters), blocks_of([math.prod(tensor.shape) for tensor in parameters.values()])


def _split(
    numbers: npt.NDArray[np.float32], names: list[str], spec: ModelSpec
) -> dict[str, npt.NDArray[np.float32]]:
    """The numbers of all parameters as tensors."""
    shapes = [spec.tensors[name].shape for name in names]
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    places = zip(names, shapes, [0, *ends], ends, strict=False)  # one start more than there are tensors
    return {name: numbers[start:end].reshape(shape) for name, shape, start, end in places}
