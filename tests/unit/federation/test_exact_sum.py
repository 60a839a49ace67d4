"""The weighted sum gives hand-computed numbers, the same bits in every order, and refuses what overflows."""

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg_core.errors import UpdateError
from medseg_core.federation.exact_sum import ExactSum, integer_weights
from medseg_core.federation.update import ModelSpec, TensorSpec, spec_of

ONE = ModelSpec({"w": TensorSpec((2,), "parameter")})
counts_of_sites = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), st.integers(1, 10**12), min_size=1, max_size=8
)


def tensors(*values: float) -> dict[str, np.ndarray]:
    return {"w": np.array(values, np.float32)}


def mean_of(spec: ModelSpec, terms: list[tuple[dict[str, np.ndarray], int]]) -> dict[str, np.ndarray]:
    total = ExactSum(spec)
    for term, weight in terms:
        total.add(term, weight)
    return total.mean()


def bits(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def refusal(total: ExactSum, term: dict[str, np.ndarray], weight: int = 1) -> str:
    with pytest.raises(UpdateError) as caught:
        total.add(term, weight)
    return caught.value.reason


def test_the_mean_of_three_sites_is_the_one_computed_by_hand() -> None:
    mean = mean_of(ONE, [(tensors(1.0, -2.0), 1), (tensors(0.5, 4.0), 2), (tensors(-0.25, 0.0), 4)])
    assert mean["w"].tolist() == [
        np.float32(1 / 7),
        np.float32(6 / 7),
    ]  # (1 + 1 - 1) / 7 and (-2 + 8 + 0) / 7
    assert mean["w"].dtype == np.float32


def test_only_the_weights_that_arrived_count() -> None:
    weights = integer_weights({"north": 30, "south": 10, "absent": 60})
    mean = mean_of(ONE, [(tensors(1.0, 0.0), weights["north"]), (tensors(0.0, 1.0), weights["south"])])
    assert mean["w"].tolist() == [0.75, 0.25]


def test_every_order_of_arrival_gives_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    spec = ModelSpec({"w": TensorSpec((7, 5), "parameter"), "v": TensorSpec((3,), "buffer")})
    terms = [
        (
            {
                "w": (rng.standard_normal((7, 5)) * 10.0 ** -rng.integers(0, 9)).astype(np.float32),
                "v": (rng.standard_normal(3) * 10.0 ** rng.integers(-6, 5)).astype(np.float32),
            },
            int(weight),
        )
        for weight in (3, 71, 500, 11)
    ]
    assert len({str(bits(mean_of(spec, list(order)))) for order in itertools.permutations(terms)}) == 1


@given(
    st.lists(st.tuples(st.floats(-7.875, 7.875, width=32), st.integers(1, 1000)), min_size=1, max_size=6),
    st.randoms(),
)
def test_the_mean_is_within_one_rounding_of_exact_arithmetic_in_any_order(
    terms: list[tuple[float, int]], shuffler: random.Random
) -> None:
    spec = ModelSpec({"w": TensorSpec((), "parameter")})
    arrays = [({"w": np.array(value, np.float32)}, weight) for value, weight in terms]
    shuffled = list(arrays)
    shuffler.shuffle(shuffled)
    mean = mean_of(spec, arrays)
    expected = math.fsum(value * weight for value, weight in terms) / sum(weight for _, weight in terms)
    assert float(mean["w"]) == pytest.approx(expected, rel=2**-23, abs=2**-39)
    assert bits(mean) == bits(mean_of(spec, shuffled))


def test_one_site_gives_its_own_update_back() -> None:
    values = tensors(0.1, -7.999)
    assert bits(mean_of(ONE, [(values, 137)])) == bits(values)


def test_tensors_longer_than_a_block_and_not_contiguous_are_summed_whole() -> None:
    array = (np.arange(600_000, dtype=np.float32).reshape(1500, 400) / 2**18).T
    spec = spec_of({"w": array, "empty": np.zeros((0, 3), np.float32)}, frozenset({"w", "empty"}))
    mean = mean_of(spec, [({"w": array, "empty": np.zeros((0, 3), np.float32)}, 3)])
    np.testing.assert_array_equal(mean["w"], array)
    assert mean["empty"].shape == (0, 3)


def test_tensors_of_several_parts_are_summed_whole_and_checked_to_their_end() -> None:
    array = (np.arange(2_500_000, dtype=np.float32) % 1000) / 2**15
    spec = spec_of({"w": array}, frozenset({"w"}))
    np.testing.assert_array_equal(mean_of(spec, [({"w": array}, 3), ({"w": -array}, 1)])["w"], array / 2)
    array[-1] = 8.0
    assert refusal(ExactSum(spec), {"w": array}) == "overflow"


@pytest.mark.parametrize("weights", [(1, 3, 2**18, 7), (2**18, 2**19)])
def test_large_and_small_products_are_rounded_alike(weights: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    values = [(rng.standard_normal(40_000) * 10.0 ** rng.integers(-13, 1, 40_000)) for _ in weights]
    arrays = [np.clip(each, -7.9, 7.9).astype(np.float32) for each in values]
    spec = spec_of({"w": arrays[0]}, frozenset({"w"}))
    mean = mean_of(spec, [({"w": array}, weight) for array, weight in zip(arrays, weights, strict=True)])["w"]
    for at in range(0, 40_000, 97):
        terms = [round(Fraction(float(a[at])) * w * 2**40) for a, w in zip(arrays, weights, strict=True)]
        assert mean[at] == np.float32(float(sum(terms)) / float(sum(weights) << 40))


def test_buffers_may_be_large_where_parameters_may_not() -> None:
    spec = ModelSpec({"variance": TensorSpec((1,), "buffer")})
    term = {"variance": np.array([400_000.5], np.float32)}
    assert mean_of(spec, [(term, 2**19), (term, 2**19)])["variance"].tolist() == [400_000.5]
    assert refusal(ExactSum(spec), {"variance": np.array([524_288.0], np.float32)}) == "overflow"


def test_the_largest_sum_does_not_overflow() -> None:
    largest = np.nextafter(np.float32(8), np.float32(0))
    mean = mean_of(ONE, [(tensors(largest, -largest), 2**19), (tensors(largest, -largest), 2**19)])
    assert mean["w"].tolist() == [largest, -largest]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((0.0, 8.0), "overflow"),
        ((-8.0, 0.0), "overflow"),
        ((0.0, np.inf), "not_finite"),
        ((np.nan, 9.0), "not_finite"),
    ],
)
def test_a_refused_update_leaves_the_sum_unchanged_bit_for_bit(
    values: tuple[float, float], reason: str
) -> None:
    spec = ModelSpec({"a": TensorSpec((2,), "parameter"), "w": TensorSpec((2,), "parameter")})
    good = {"a": np.array([1, 2], np.float32), **tensors(3.0, 4.0)}
    total, untouched = ExactSum(spec), ExactSum(spec)
    for running in (total, untouched):
        running.add(good, 5)
    assert refusal(total, {"a": np.array([7, 7], np.float32), **tensors(*values)}) == reason
    for running in (total, untouched):
        running.add(good, 1)
    assert bits(total.mean()) == bits(untouched.mean())
    assert total.weight == untouched.weight == 6


def test_names_types_shapes_and_weights_are_checked_before_adding() -> None:
    total = ExactSum(ONE)
    assert refusal(total, {}) == "missing_tensor"
    assert refusal(total, {**tensors(1, 2), "x": np.zeros(1, np.float32)}) == "extra_tensor"
    assert refusal(total, tensors(1, 2, 3)) == "wrong_shape"
    assert refusal(total, {"w": np.zeros(2)}) == "wrong_dtype"
    assert refusal(total, tensors(1, 2), weight=0) == "bad_count"
    assert refusal(total, tensors(1, 2), weight=2**20 + 1) == "bad_count"
    assert total.weight == 0


@given(counts_of_sites, st.integers(1, 1000))
def test_weights_are_positive_bounded_and_free_of_scale(counts: dict[str, int], factor: int) -> None:
    weights = integer_weights(counts)
    assert weights.keys() == counts.keys()
    assert min(weights.values()) >= 1
    assert sum(weights.values()) <= 2**20
    assert integer_weights({site: factor * count for site, count in counts.items()}) == weights


def test_weights_are_exact_where_they_fit() -> None:
    assert integer_weights({"a": 40, "b": 30, "c": 20, "d": 10}) == {"a": 4, "b": 3, "c": 2, "d": 1}
    assert integer_weights({"only": 137}) == {"only": 1}
    assert integer_weights({}) == {}


def test_weights_too_large_to_fit_keep_their_proportion() -> None:
    weights = integer_weights({"huge": 3_000_001, "large": 1_000_000, "small": 1})
    assert weights["small"] == 1
    assert weights["huge"] / weights["large"] == pytest.approx(3.000001, rel=1e-5)


@pytest.mark.parametrize("count", [0, -3])
def test_a_site_without_cases_has_no_weight(count: int) -> None:
    with pytest.raises(UpdateError, match=r"site south counts .* at least 1") as caught:
        integer_weights({"north": 3, "south": count})
    assert caught.value.reason == "bad_count"
