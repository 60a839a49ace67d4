"""Tensors survive the wire bit for bit, and other bytes are refused with a fixed reason."""

import json
import struct
import tracemalloc
from typing import get_args

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg_core.errors import UpdateError
from medseg_core.federation.codec import decode_kinds, decode_tensors, encode_tensors, read_tensors
from medseg_core.federation.codecs.int8 import Int8
from medseg_core.federation.update import DELTA, Reason, spec_of

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(0.5, np.float32)}
SPEC = spec_of(TENSORS, frozenset(TENSORS))
BYTES = encode_tensors(TENSORS)


def reason_of(data: bytes) -> str:
    with pytest.raises(UpdateError) as caught:
        decode_tensors(data, SPEC)
    assert caught.value.reason in get_args(Reason)
    assert len(str(caught.value)) < 400
    return caught.value.reason


def raw(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
def test_any_array_survives_bit_for_bit(array: np.ndarray) -> None:
    spec = spec_of({"x": array}, frozenset())
    back = decode_tensors(encode_tensors({"x": array}), spec)["x"]
    assert back.tobytes() == array.tobytes()
    assert back.shape == array.shape


def test_the_order_of_a_mapping_and_of_axes_in_memory_changes_no_byte() -> None:
    assert encode_tensors(dict(reversed(TENSORS.items()))) == BYTES
    assert encode_tensors({**TENSORS, "b": np.asfortranarray(TENSORS["b"])}) == BYTES


def test_a_strided_view_is_written_as_its_values() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert encode_tensors({"x": array[::2, ::-1]}) == encode_tensors({"x": array[::2, ::-1].copy()})


def test_the_bytes_are_safetensors_that_others_read() -> None:
    np.testing.assert_array_equal(safetensors.numpy.load(BYTES)["b"], TENSORS["b"])


def test_every_truncation_is_refused() -> None:
    for length in range(len(BYTES)):
        assert reason_of(BYTES[:length]) == "corrupt_payload"
    assert reason_of(BYTES + b"\x00") == "corrupt_payload"


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    reason_of(data)


@given(position=st.integers(0, len(BYTES) - 1), value=st.integers(0, 255))
def test_a_changed_byte_gives_tensors_of_the_model_or_a_refusal(position: int, value: int) -> None:
    changed = bytearray(BYTES)
    changed[position] = value
    try:
        back = decode_tensors(bytes(changed), SPEC)
    except UpdateError:
        return
    assert {name: array.shape for name, array in back.items()} == {"a": (), "b": (2, 3)}


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a": TENSORS["a"]}, "missing_tensor"),
        ({**TENSORS, "image": np.zeros(4, np.float32)}, "extra_tensor"),
        ({**TENSORS, "b": np.zeros((3, 2), np.float32)}, "wrong_shape"),
        ({**TENSORS, "b": np.zeros((2, 3), np.float64)}, "wrong_dtype"),
        ({**TENSORS, "b": np.zeros((2, 3), np.int32)}, "wrong_dtype"),
    ],
)
def test_tensors_of_another_model_are_refused(tensors: dict[str, np.ndarray], reason: str) -> None:
    assert reason_of(safetensors.numpy.save(tensors)) == reason


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [0] * 100, "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**63]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": 1}},
        {"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"__metadata__": {"a": 1}},
    ],
)
def test_hostile_headers_are_refused_without_another_error(header: object) -> None:
    assert reason_of(raw(header, bytes(4))) == "corrupt_payload"
    assert reason_of(raw(header)) in ("corrupt_payload", "missing_tensor")


def test_a_header_longer_than_any_of_this_model_is_refused_before_it_is_parsed() -> None:
    """Parsed, it would take 28 times its size."""
    header = {f"n{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(50_000)}
    data = raw(header)
    tracemalloc.start()
    try:
        for decode in (
            lambda: decode_tensors(data, SPEC),
            lambda: decode_kinds(data, {DELTA: SPEC}, main=DELTA),
            lambda: decode_kinds(data, {DELTA: SPEC}, main=DELTA, codec=Int8()),
        ):
            with pytest.raises(UpdateError, match=r"header of [0-9]+ bytes") as caught:
                decode()
            assert caught.value.reason == "corrupt_payload"
        assert tracemalloc.get_traced_memory()[1] < len(data)
    finally:
        tracemalloc.stop()


def test_a_model_of_many_tensors_with_long_names_is_read() -> None:
    many = {f"{n:04d}{'x' * 800}": np.zeros(1, np.float32) for n in range(3000)}
    assert len(decode_tensors(encode_tensors(many), spec_of(many, frozenset()))) == 3000


def test_a_length_that_lies_is_refused() -> None:
    assert reason_of(struct.pack("<Q", 2**63) + b"{}") == "corrupt_payload"


def one_number(at: tuple[int, int]) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": at}


@pytest.mark.parametrize("second", [(0, 4), (2, 6), (8, 12)])
def test_bytes_that_two_tensors_share_or_none_has_are_refused(second: tuple[int, int]) -> None:
    header = {"a": one_number((0, 4)), "b": one_number(second)}
    assert reason_of(raw(header, bytes(max(8, second[1])))) == "corrupt_payload"


@pytest.mark.parametrize("dtype", ["BF16", "O"])
def test_numbers_of_another_type_are_refused_by_name(dtype: str) -> None:
    data = raw({"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 4]}}, bytes(4))
    with pytest.raises(UpdateError, match=f"is {dtype}, expected F32"):
        read_tensors(data)


def test_tensors_read_are_views_of_the_bytes_and_read_only() -> None:
    behind_an_odd_header = memoryview(b"?" + BYTES)[1:]
    back = decode_tensors(behind_an_odd_header, SPEC)
    assert all(
        np.shares_memory(array, np.frombuffer(behind_an_odd_header, np.uint8)) for array in back.values()
    )
    assert not any(array.flags.writeable for array in back.values())
    np.testing.assert_array_equal(back["b"], TENSORS["b"])
