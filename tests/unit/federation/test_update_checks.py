"""An update is measured and checked against the model before anything uses it."""

from typing import get_args

import numpy as np
import pytest

from medseg_core.errors import UpdateError
from medseg_core.federation.update import ModelSpec, Reason, check_update, delta, spec_of

WEIGHTS = {"w": np.zeros((2, 2), np.float32), "mean": np.zeros(2, np.float32)}
SPEC = spec_of(WEIGHTS, frozenset({"w"}))


def update(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    whole = {"w": np.array([[3, 0], [0, 4]], np.float32), "mean": np.array([0, 12], np.float32), **changes}
    return {name: array for name, array in whole.items() if array is not None}


def reason_of(tensors: dict[str, np.ndarray], max_norm: float | None = None, spec: ModelSpec = SPEC) -> str:
    with pytest.raises(UpdateError) as caught:
        check_update(tensors, spec, max_norm=max_norm)
    assert caught.value.reason in get_args(Reason)
    return caught.value.reason


def test_the_norm_is_over_all_tensors() -> None:
    assert check_update(update(), SPEC, max_norm=None) == 13.0  # sqrt(9 + 16 + 144)


def test_a_norm_at_the_limit_passes_and_above_is_refused() -> None:
    assert check_update(update(), SPEC, max_norm=13.0) == 13.0
    assert reason_of(update(), max_norm=12.9) == "norm_exceeded"


def test_the_norm_of_the_largest_numbers_is_finite() -> None:
    largest = np.full((2, 2), np.finfo(np.float32).max)
    assert check_update(update(w=largest), SPEC, max_norm=None) == pytest.approx(2 * 3.4028235e38)


def test_the_norm_of_a_long_tensor_is_right() -> None:
    long = {"w": np.full(300_000, 0.5, np.float32)}
    assert check_update(long, spec_of(long, frozenset({"w"})), max_norm=None) == pytest.approx(75_000**0.5)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (update(mean=None), "missing_tensor"),
        ({}, "missing_tensor"),
        (update(other=np.zeros(1, np.float32)), "extra_tensor"),
        (update(w=np.zeros((2, 3), np.float32)), "wrong_shape"),
        (update(w=np.zeros(4, np.float32)), "wrong_shape"),
        (update(w=np.zeros((2, 2))), "wrong_dtype"),
        (update(w=np.zeros((2, 2), np.int64)), "wrong_dtype"),
        (update(w=np.array([[0, np.nan], [0, 0]], np.float32)), "not_finite"),
        (update(mean=np.array([np.inf, 0], np.float32)), "not_finite"),
        (update(mean=np.array([-np.inf, np.inf], np.float32)), "not_finite"),
        (
            update(w=np.frombuffer(b"\x01\x00\xa0\x7f" * 4, "<f4").reshape(2, 2)),
            "not_finite",
        ),  # signalling NaN
    ],
)
def test_what_is_not_an_update_of_this_model_is_refused(tensors: dict[str, np.ndarray], reason: str) -> None:
    assert reason_of(tensors, max_norm=1e6) == reason


def test_the_refusal_names_the_tensor_and_what_was_expected() -> None:
    with pytest.raises(UpdateError, match=r"tensor 'w' is \(4,\), expected \(2, 2\)"):
        check_update(update(w=np.zeros(4, np.float32)), SPEC, max_norm=None)


def test_a_delta_is_local_minus_start() -> None:
    start = {"w": np.array([1.0, 2.0], np.float32)}
    moved = delta({"w": np.array([1.5, 1.0], np.float32)}, start)
    assert moved["w"].tolist() == [0.5, -1.0]
    assert moved["w"].dtype == np.float32


def test_the_delta_of_a_diverged_network_is_refused_not_warned_about() -> None:
    start = {"w": np.array([[1, np.inf], [0, 0]], np.float32), "mean": np.zeros(2, np.float32)}
    assert reason_of(delta(start, start)) == "not_finite"


def test_a_specification_says_shapes_and_roles_and_has_one_identity() -> None:
    assert SPEC.tensors["w"].role == "parameter"
    assert SPEC.tensors["mean"].role == "buffer"
    assert list(SPEC.tensors) == ["mean", "w"]
    assert SPEC.n_bytes == 24
    assert SPEC.to_json() == (
        '{"dtype":"float32","tensors":{"mean":{"role":"buffer","shape":[2]},"w":{"role":"parameter","shape":[2,2]}}}'
    )
    turned = spec_of(dict(reversed(WEIGHTS.items())), frozenset({"w"}))
    assert turned.sha256 == SPEC.sha256
    assert spec_of(WEIGHTS, frozenset({"w", "mean"})).sha256 != SPEC.sha256
