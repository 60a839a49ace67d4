"""Codecs: what arrives is near what was sent, bytes that no codec wrote are refused, what is left over comes later."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg_core.errors import UpdateError
from medseg_core.federation.codec import code, decode_kinds, encode_kinds
from medseg_core.federation.codecs import Codec
from medseg_core.federation.codecs.base import BLOCK, blocks_of
from medseg_core.federation.codecs.halves import BFloat16, Float16
from medseg_core.federation.codecs.int8 import Int8
from medseg_core.federation.codecs.ternary import Ternary
from medseg_core.federation.codecs.topk import TopK
from medseg_core.federation.update import DELTA, ModelSpec, TensorSpec

CODECS: dict[str, Codec] = {
    "fp16": Float16(),
    "bf16": BFloat16(),
    "int8": Int8(),
    "ternary": Ternary(),
    "topk": TopK(0.1),
}
SIZES = [1, 3, BLOCK, BLOCK + 1, 1000]
SPEC = ModelSpec(
    {f"w{n}": TensorSpec((size,), "parameter") for n, size in enumerate(SIZES)}
    | {"z": TensorSpec((2, 2), "buffer")}
)


def update(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 1e-3, t.shape).astype(np.float32) for name, t in SPEC.tensors.items()}


def payload(codec: Codec, tensors: dict[str, np.ndarray]) -> bytes:
    return encode_kinds({DELTA: code(tensors, SPEC, codec)[0]}, main=DELTA)


def all_codecs():
    return pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


# ---- each by hand --------------------------------------------------------------------------------------


def test_int8_takes_127_steps_of_each_blocks_largest() -> None:
    numbers = np.array([1.27, -0.5, 0.004, 254.0, 1.0], np.float32)

    entries = Int8().encode(numbers, blocks_of([3, 2]))

    np.testing.assert_allclose(entries["scales"], [0.01, 2.0], rtol=1e-6)
    assert entries["steps"].tolist() == [127, -50, 0, 127, 0]
    np.testing.assert_allclose(Int8().decode(entries, blocks_of([3, 2])), [1.27, -0.5, 0, 254, 0], rtol=1e-6)


def test_ternary_sends_signs_of_what_is_above_the_mean_of_its_block() -> None:
    numbers = np.array([0.1, -3.0, 5.0, 0.2, 0.0, 0.0], np.float32)
    blocks = blocks_of([4, 2])

    entries = Ternary().encode(numbers, blocks)

    scale = (0.1**2 + 3**2 + 5**2 + 0.2**2) / (3 + 5)
    np.testing.assert_allclose(entries["scales"], [scale, 0.0], rtol=1e-6)
    back = Ternary().decode(entries, blocks)
    np.testing.assert_allclose(back, [0, -scale, scale, 0, 0, 0], rtol=1e-6)


def test_what_ternary_leaves_over_stands_at_right_angles_to_the_block() -> None:
    rng = np.random.default_rng(0)
    numbers = np.concatenate(
        [10.0**power * rng.standard_t(3, BLOCK) for power in (-30, -3, 25)], dtype=np.float32
    )

    back = Ternary().decode(Ternary().encode(numbers, blocks := blocks_of([BLOCK] * 3)), blocks)

    for block, arrived in zip(np.split(numbers.astype(np.float64), 3), np.split(back, 3), strict=True):
        np.testing.assert_allclose(block @ arrived, block @ block, rtol=1e-5)


def test_ternary_expands_to_no_more_than_the_model() -> None:
    blocks = blocks_of([7])
    entries = Ternary().encode(np.ones(7, np.float32), blocks)
    for data in (
        zlib.compress(bytes(10**6)),
        zlib.compress(bytes(1)),
        zlib.compress(bytes([250, 0])),
        b"",
        b"no",
    ):
        with pytest.raises(UpdateError) as caught:
            Ternary().decode({**entries, "digits": np.frombuffer(data, np.uint8)}, blocks)
        assert caught.value.reason == "corrupt_payload"


def test_topk_sends_the_largest_amounts_alone() -> None:
    numbers = np.array([0.1, -5.0, 0.2, 3.0, -3.0], np.float32)
    codec = TopK(0.4)

    entries = codec.encode(numbers, blocks_of([2, 3]))

    assert (entries["counts"].tolist(), entries["places"].tolist()) == ([1, 1], [1, 1])  # -5, and the first 3
    np.testing.assert_allclose(codec.decode(entries, blocks_of([2, 3])), [0, -5, 0, 3, 0], rtol=1e-6)


def test_bfloat16_rounds_to_the_nearest_and_to_even() -> None:
    numbers = np.array([1.0, 1.00390625, 1.01171875, -1.0078125, 3.4e38, 0.0], np.float32)

    back = BFloat16().decode(BFloat16().encode(numbers, blocks_of([6])), blocks_of([6]))

    assert back[:4].tolist() == [1.0, 1.0, 1.015625, -1.0078125]
    assert np.isfinite(back).all()


def test_float16_holds_what_is_too_large() -> None:
    numbers = np.array([1e6, -1e6, 0.1], np.float32)

    back = Float16().decode(Float16().encode(numbers, blocks_of([3])), blocks_of([3]))

    assert back.tolist() == [65504.0, -65504.0, np.float32(np.float16(0.1))]


# ---- all alike -----------------------------------------------------------------------------------------


@all_codecs()
def test_what_arrives_is_what_the_sender_believes(codec: Codec) -> None:
    _, arriving = code(update(), SPEC, codec)

    arrived = decode_kinds(payload(codec, update()), {DELTA: SPEC}, main=DELTA, codec=codec)[DELTA]

    assert list(arrived) == list(SPEC.tensors)
    for name in arriving:
        np.testing.assert_array_equal(arrived[name], arriving[name], err_msg=name)
    np.testing.assert_array_equal(arrived["z"], update()["z"])  # a buffer


@all_codecs()
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_numbers_at_the_end_of_the_range_arrive_finite_and_without_a_warning(
    codec: Codec, share: float
) -> None:
    largest = np.float32(np.finfo(np.float32).max)
    rng = np.random.default_rng(0)
    for low in (-1.0, 0.0, 0.9 * share, share):  # as shares of the largest
        sent = {
            name: largest * rng.uniform(low, share, t.shape).astype(np.float32)
            for name, t in SPEC.tensors.items()
        }

        _, arriving = code(sent, SPEC, codec)

        assert all(np.isfinite(tensor).all() for tensor in arriving.values())


@pytest.mark.parametrize(
    ("name", "largest"), [("fp16", 1e-3), ("bf16", 4e-3), ("int8", 2e-2), ("ternary", 0.55), ("topk", 0.9)]
)
def test_what_is_left_over_is_small(name: str, largest: float) -> None:
    sent = update()
    _, arriving = code(sent, SPEC, CODECS[name])

    left = math.sqrt(sum(float(np.square(sent[n] - arriving[n]).sum()) for n in sent))
    whole = math.sqrt(sum(float(np.square(sent[n]).sum()) for n in sent))
    assert 0 < left < largest * whole


@all_codecs()
def test_nothing_is_lost_where_the_rest_is_added_to_the_next(codec: Codec) -> None:
    wanted = {name: np.zeros(t.shape, np.float64) for name, t in SPEC.tensors.items()}
    arrived = {name: np.zeros(t.shape, np.float64) for name, t in SPEC.tensors.items()}
    left = {name: np.zeros(t.shape, np.float32) for name, t in SPEC.tensors.items()}
    for number in range(40):
        fresh = update(number)
        _, arriving = code({name: fresh[name] + left[name] for name in fresh}, SPEC, codec)
        for name in fresh:
            left[name] = fresh[name] + left[name] - arriving[name]
            wanted[name] += fresh[name]
            arrived[name] += arriving[name]

    for name in wanted:
        np.testing.assert_allclose(arrived[name] + left[name], wanted[name], atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("name", "most"),
    [("fp16", 0.501), ("bf16", 0.501), ("int8", 0.256), ("ternary", 0.0495), ("topk", 0.057)],
)
def test_how_many_bytes_a_number_takes(name: str, most: float) -> None:
    large = ModelSpec({"w": TensorSpec((200, 1000), "parameter")})
    numbers = {"w": np.random.default_rng(0).normal(size=(200, 1000)).astype(np.float32)}

    coded, _ = code(numbers, large, CODECS[name])

    assert len(encode_kinds({DELTA: coded}, main=DELTA)) < most * large.n_bytes


@all_codecs()
def test_zeros_stay_zeros(codec: Codec) -> None:
    _, arriving = code({n: np.zeros(t.shape, np.float32) for n, t in SPEC.tensors.items()}, SPEC, codec)

    assert not any(tensor.any() for tensor in arriving.values())


# ---- bytes from elsewhere --------------------------------------------------------------------------------


@all_codecs()
@given(data=st.data())
def test_changed_bytes_are_refused_or_tensors_of_the_model(codec: Codec, data) -> None:
    raw = bytearray(payload(codec, update()))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))

    try:
        arrived = decode_kinds(bytes(raw), {DELTA: SPEC}, main=DELTA, codec=codec)[DELTA]
    except UpdateError:
        return
    shapes = {name: tensor.shape for name, tensor in arrived.items()}
    assert shapes == {name: tensor.shape for name, tensor in SPEC.tensors.items()}


@all_codecs()
def test_an_update_of_another_codec_is_refused(codec: Codec) -> None:
    other = next(c for c in CODECS.values() if type(c) is not type(codec))
    plain = encode_kinds({DELTA: update()}, main=DELTA)

    for data in (plain, payload(other, update())):
        with pytest.raises(UpdateError) as caught:
            decode_kinds(data, {DELTA: SPEC}, main=DELTA, codec=codec)
        assert caught.value.reason in ("corrupt_payload", "extra_tensor")


@pytest.mark.parametrize(
    ("name", "entry", "value"),
    [
        ("int8", "scales", np.float32([np.inf] * 8)),
        ("int8", "scales", np.float32([-1.0] * 8)),
        ("int8", "steps", np.zeros(3, np.int8)),
        ("topk", "counts", np.uint16([9] * 8)),
        ("topk", "places", np.zeros(127, np.uint8)),
        ("fp16", "halves", np.zeros((5, 5), np.float16)),
    ],
)
def test_an_impossible_array_is_refused(name: str, entry: str, value: np.ndarray) -> None:
    coded = dict(code(update(), SPEC, CODECS[name])[0]) | {f"coded/{entry}": value}

    with pytest.raises(UpdateError, match="coded") as caught:
        decode_kinds(encode_kinds({DELTA: coded}, main=DELTA), {DELTA: SPEC}, main=DELTA, codec=CODECS[name])
    assert caught.value.reason == "corrupt_payload"
