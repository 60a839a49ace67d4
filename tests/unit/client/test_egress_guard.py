"""What the guard lets out of a site: the declared, whole and finite, within policy; and what it keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    initial_weights,
    ledger_of,
    make_experiment,
    make_guard,
    make_request,
    make_site_data,
    make_trainer,
    opened,
    site_key,
)

from medseg_client.egress import EgressGuard, Question
from medseg_core.errors import PolicyError, UpdateError, WireError
from medseg_core.federation.codec import decode_kinds, read_tensors
from medseg_core.federation.codecs import Codec
from medseg_core.federation.codecs.halves import BFloat16, Float16
from medseg_core.federation.codecs.int8 import Int8
from medseg_core.federation.codecs.ternary import Ternary
from medseg_core.federation.codecs.topk import TopK
from medseg_core.federation.update import DELTA, check_update, spec_of
from medseg_core.files import sha256_of
from medseg_core.wire.envelope import Envelope, verify

EXPERIMENT = make_experiment(federation={"rounds": 3})
WEIGHTS = initial_weights(EXPERIMENT)
SPEC = spec_of(WEIGHTS, frozenset(WEIGHTS))
ONES = {name: np.ones_like(array) for name, array in WEIGHTS.items()}
FIRST = next(iter(ONES))
N = sum(array.size for array in ONES.values())
CODECS = [Float16(), BFloat16(), Int8(), Ternary(), TopK(1.0)]


def question(kind: str = "train", **fields: Any) -> Question:
    data = make_request(EXPERIMENT, kind, **fields)
    return Question(opened(data).header, bytes(opened(data).payload), sha256_of(data))


def release(
    guard: EgressGuard,
    update: dict[str, np.ndarray] = ONES,
    n_patients: int = 9,
    **more: Any,
) -> Envelope:
    counts, scalars = {"cases": 9, "steps": 5}, {"loss": 0.5, "training_s": 1.0, "waiting_s": 0.0}
    envelope, _, _ = guard.release_update(
        question(), update, SPEC, counts=counts, scalars=scalars, n_patients=n_patients, **more
    )
    return envelope


def noise(norm: float, seed: int = 0) -> dict[str, np.ndarray]:
    """An update of this length in a random direction."""
    rng = np.random.default_rng(seed)
    update = {name: rng.normal(size=tensor.shape).astype(np.float32) for name, tensor in ONES.items()}
    long = np.float32(norm / check_update(update, SPEC, max_norm=None))
    return {name: tensor * long for name, tensor in update.items()}


def norm_arriving(sent: Envelope, codec: Codec | None) -> float:
    """Length of the update in an envelope, as the coordinator has it."""
    arrived = decode_kinds(sent.payload, {DELTA: SPEC}, main=DELTA, codec=codec)[DELTA]
    return check_update(arrived, SPEC, max_norm=None)


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (ONES | {FIRST: np.full_like(ONES[FIRST], np.nan)}, "not_finite"),
        (ONES | {FIRST: np.full_like(ONES[FIRST], -np.inf)}, "not_finite"),
        (ONES | {"image": np.ones((4, 4), np.float32)}, "extra_tensor"),
        ({name: array for name, array in ONES.items() if name != FIRST}, "missing_tensor"),
        (ONES | {FIRST: np.ones((512, 512), np.float32)}, "wrong_shape"),
    ],
    ids=["nan", "infinity", "extra", "missing", "shape"],
)
def test_an_update_that_is_not_one_of_the_global_model_does_not_leave(
    tmp_path: Path, update: dict[str, np.ndarray], reason: str
) -> None:
    with pytest.raises(UpdateError) as caught:
        release(make_guard(tmp_path), update)
    assert caught.value.reason == reason
    assert ledger_of(tmp_path) == []


def test_what_left_stands_in_the_ledger_as_it_left(tmp_path: Path) -> None:
    sent = release(make_guard(tmp_path))
    verify(sent, site_key("north").public_key())
    (entry,) = ledger_of(tmp_path)
    under = {"ledger_sequence": None, "ledger_head": None}
    assert entry.header == sent.header.model_copy(update=under)
    assert sent.header.ledger_sequence == 1
    assert sent.header.scalars["update_norm"] == entry.update_norm == pytest.approx(np.sqrt(N))
    assert (tmp_path / "payloads" / sha256_of(sent.payload)).read_bytes() == sent.payload


@pytest.mark.parametrize("limit", [0.1, 1.0, 7.3])
def test_a_long_update_is_scaled_down_before_it_leaves(tmp_path: Path, limit: float) -> None:
    sent = release(make_guard(tmp_path, max_update_norm=limit))
    tensors = read_tensors(sent.payload)
    norm = check_update(tensors, SPEC, max_norm=limit)
    assert norm == pytest.approx(limit, rel=1e-5)
    assert sent.header.scalars["update_norm"] == norm
    assert np.allclose(tensors[FIRST], limit / np.sqrt(N), rtol=1e-5)
    (entry,) = ledger_of(tmp_path)
    assert (entry.update_norm, entry.norm_before_clip) == (norm, pytest.approx(np.sqrt(N)))


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: type(c).__name__)
def test_what_arrives_of_a_coded_update_is_no_longer_than_allowed(tmp_path: Path, codec: Codec) -> None:
    sent = release(make_guard(tmp_path, max_update_norm=1.0), noise(80.0), codec=codec)
    norm = norm_arriving(sent, codec)
    assert norm <= 1.0
    assert norm == pytest.approx(1.0, rel=1e-3)
    assert sent.header.scalars["update_norm"] == norm


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("codec", CODECS, ids=lambda c: type(c).__name__)
def test_what_a_codec_makes_longer_than_was_agreed_is_shortened_to_it(
    tmp_path: Path, codec: Codec, seed: int
) -> None:
    sent = release(make_guard(tmp_path), noise(0.9999, seed), codec=codec, agreed_norm=1.0)
    assert 0.99 < norm_arriving(sent, codec) <= 1.0


def test_what_was_left_over_counts_as_what_the_codec_makes_longer(tmp_path: Path) -> None:
    codec = TopK(0.1)
    sent = release(make_guard(tmp_path), noise(0.9), codec=codec, agreed_norm=1.0, late=noise(30.0, seed=1))
    assert 0.99 < norm_arriving(sent, codec) <= 1.0


@pytest.mark.parametrize("codec", [None, *CODECS], ids=lambda c: type(c).__name__)
def test_training_that_led_further_than_was_agreed_is_sent_as_it_is(
    tmp_path: Path, codec: Codec | None
) -> None:
    sent = release(make_guard(tmp_path), noise(1.5), codec=codec, agreed_norm=1.0)
    assert norm_arriving(sent, codec) > 1.4  # and refused there: the bound is the coordinator's


def test_the_shorter_of_both_bounds_holds(tmp_path: Path) -> None:
    sent = release(make_guard(tmp_path, max_update_norm=0.5), noise(0.9), codec=Ternary(), agreed_norm=1.0)
    assert norm_arriving(sent, Ternary()) == pytest.approx(0.5, rel=1e-3)
    (tmp_path / "other").mkdir()
    guard = make_guard(tmp_path / "other", max_update_norm=2.0)
    assert norm_arriving(release(guard, noise(0.9), codec=Ternary(), agreed_norm=1.0), Ternary()) <= 1.0


def test_an_update_within_the_norm_leaves_bit_for_bit(tmp_path: Path) -> None:
    tensors = read_tensors(release(make_guard(tmp_path, max_update_norm=1e6)).payload)
    assert all(np.array_equal(tensors[name], ONES[name]) for name in ONES)


def test_an_update_of_too_few_patients_does_not_leave(tmp_path: Path) -> None:
    guard = make_guard(tmp_path, min_patients_update=5)
    with pytest.raises(PolicyError, match=r"train of 4 patients .*min_patients_update is 5: .*site.toml"):
        release(guard, n_patients=4)
    assert release(guard, n_patients=5)


def test_a_message_larger_than_allowed_does_not_leave(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"max_message_mb is 0\.0001"):
        release(make_guard(tmp_path, max_message_mb=1e-4))
    assert ledger_of(tmp_path) == []


def test_figures_of_training_stay_where_policy_keeps_them(tmp_path: Path) -> None:
    sent = release(make_guard(tmp_path, statistics=["validation"]))
    assert sent.header.scalars == {}
    assert sent.header.counts == {"cases": 9, "steps": 5}
    assert ledger_of(tmp_path)[0].update_norm == pytest.approx(np.sqrt(N))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_stay_where_policy_keeps_them(tmp_path: Path, split: str) -> None:
    guard = make_guard(tmp_path, statistics=[s for s in ("training", "validation", "test") if s != split])
    asked = question("evaluate", split=split)
    with pytest.raises(PolicyError, match=f"not_released: {split} scores are asked for"):
        guard.release_figures(asked, counts={"cases": 9}, scalars={"dice": 0.5}, n_patients=9)


@pytest.mark.parametrize("name", ["Mustermann", "dice/Mustermann", "Mustermann/dice", "case-7"])
@pytest.mark.parametrize("policed", [True, False])
def test_a_figure_that_was_not_declared_does_not_leave(tmp_path: Path, name: str, policed: bool) -> None:
    guard = make_guard(tmp_path) if policed else EgressGuard(site_key("north"))
    asked = question("evaluate", split="test")
    with pytest.raises(WireError, match="undeclared"):
        guard.release_figures(
            asked, counts={"cases": 9}, scalars={name: 0.5}, n_patients=9, labels=("square",)
        )
    with pytest.raises(WireError, match="undeclared"):
        guard.release_figures(asked, counts={name: 1}, n_patients=9)


def test_a_figure_that_is_not_finite_leaves_as_null() -> None:
    asked = question("evaluate", split="validation")
    sent = EgressGuard(site_key("north")).release_figures(
        asked, counts={"cases": 1}, scalars={"dice": float("nan")}, n_patients=1
    )
    assert sent.header.scalars == {"dice": None}


def test_a_planted_patient_stands_in_no_envelope_and_no_line(tmp_path: Path) -> None:
    guard = make_guard(tmp_path / "ledger")
    trainer = make_trainer(tmp_path / "state", EXPERIMENT, make_site_data(), guard=guard, faults=[])
    requests = [
        make_request(EXPERIMENT, "describe"),
        make_request(EXPERIMENT, "train"),
        make_request(EXPERIMENT, "evaluate", split="validation"),
        make_request(EXPERIMENT, "evaluate", split="test"),
        make_request(EXPERIMENT, "train", round=2, weights=b"not a model"),
    ]
    left = [trainer.handle(request) for request in [*requests, *requests]]
    left += [path.read_bytes() for path in (tmp_path / "ledger").rglob("*") if path.is_file()]
    assert len(ledger_of(tmp_path / "ledger")) == 9  # four answers, each sent again, and one refusal
    for secret in (b"patient-of", b"north-t", b"north-v", b"/images"):
        assert not [data for data in left if secret in data]
