"""Arrays in safetensors bytes without copying them, which the safetensors package does.

    header length 8 (little-endian) | header (JSON) | numbers

The header names for each array its type, its shape and the first byte and the byte after its last, from the end of the
header. Source: https://github.com/huggingface/safetensors#format
"""

import math
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

_LENGTH_BYTES = 8
_DTYPES = {"F32": "<f4", "F16": "<f2", "U16": "<u2", "U8": "u1", "I8": "i1"}
_Whole = Annotated[int, Field(ge=0, lt=2**63)]


class UnknownTypeError(Exception):
    """An array of numbers that no payload of ours holds."""

    def __init__(self, name: str, dtype: str) -> None:
        super().__init__(f"array {name!r} is {dtype}, expected one of {', '.join(_DTYPES)}")
        self.name, self.dtype = name, dtype


class _Place(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    dtype: str
    shape: Annotated[tuple[_Whole, ...], Field(max_length=64, fail_fast=True)]  # as many axes as NumPy has
    data_offsets: tuple[_Whole, _Whole]


_HEADER = TypeAdapter(dict[str, _Place])


def safetensors_views(
    data: bytes | memoryview, *, header_bytes_max: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """The arrays by name, read-only and perhaps unaligned; each byte of the numbers belongs to one of them.

    A header that is parsed takes many times its length: a longer one than `header_bytes_max` is not.
    Raises ValueError for other bytes, UnknownTypeError for numbers of another type.
    """
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    if not _LENGTH_BYTES <= start <= len(data):
        raise ValueError("the header ends behind the data")
    if header_bytes_max is not None and start - _LENGTH_BYTES > header_bytes_max:
        raise ValueError(f"a header of {start - _LENGTH_BYTES} bytes, at most {header_bytes_max} are parsed")
    try:
        places = _HEADER.validate_json(bytes(data[_LENGTH_BYTES:start]))
    except ValidationError:
        raise ValueError("the header does not parse") from None
    in_order = sorted(places.items(), key=lambda item: item[1].data_offsets)
    numbers, arrays, end = memoryview(data)[start:], {}, 0
    for name, place in in_order:
        arrays[name] = _view(numbers, name, place, end)
        end = place.data_offsets[1]
    if start + end != len(data):
        raise ValueError(f"{len(data) - start - end} bytes belong to no array")
    return arrays


def _view(numbers: memoryview, name: str, place: _Place, expected_start: int) -> npt.NDArray[Any]:
    if place.dtype not in _DTYPES:
        raise UnknownTypeError(name, place.dtype)
    (start, end), dtype = place.data_offsets, np.dtype(_DTYPES[place.dtype])
    if start != expected_start or end - start != math.prod(place.shape) * dtype.itemsize:
        raise ValueError(f"bytes {start} to {end} are not those of array {name!r:.80}")
    array: npt.NDArray[Any] = np.frombuffer(numbers[start:end], dtype)
    return array.reshape(place.shape)
