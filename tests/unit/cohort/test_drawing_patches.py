"""Patches: shape, foreground, alignment of image and label, padding, and what the draw depends on."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import make_case, make_experiment
from hypothesis import given
from hypothesis import strategies as st

from medseg_core.cohort.patches import Batch, batches, one_ahead, steps_in_pass
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Training


def make_training(**settings: object) -> Training:
    return make_experiment(training=settings).training


def case_of(label: np.ndarray, offset: float = 5.0) -> PreprocessedCase:
    """A case whose image is its label plus an offset, so that a patch shows where it came from."""
    case = make_case("case", label.shape)
    foreground = np.argwhere(label > 0)
    rows = np.column_stack([label[tuple(foreground.T)], foreground]).astype(np.int32)
    return replace(case, image=(label + offset).astype(np.float32)[None], label=label, foreground=rows)


def draw(case: PreprocessedCase, training: Training, passes: int = 1, **context: object) -> list[Batch]:
    settings = {"seed": 0, "site": "north", "round_number": 1} | context
    return list(batches([case], training, passes=passes, **settings))


@given(height=st.integers(3, 40), width=st.integers(3, 40), patch=st.sampled_from([(8, 8), (16, 8), (4, 32)]))
def test_every_patch_has_the_shape_asked_for_and_its_label_lies_on_its_image(
    height: int, width: int, patch: tuple[int, int]
) -> None:
    rng = np.random.default_rng(height * 100 + width)
    case = case_of((rng.random((height, width)) < 0.2).astype(np.uint8))
    for batch in draw(case, make_training(patch_size=patch), passes=3):
        assert batch.images.shape == (1, 1, *patch)
        assert batch.labels.shape == (1, *patch)
        image, label = batch.images[0, 0].numpy(), batch.labels[0].numpy()
        inside = image != 0
        np.testing.assert_array_equal(image[inside], label[inside] + 5.0)
        assert not label[~inside].any()
        assert inside.sum() == min(height, patch[0]) * min(width, patch[1])


def test_an_image_smaller_than_the_patch_lies_in_its_middle() -> None:
    (batch,) = draw(case_of(np.ones((4, 3), np.uint8)), make_training(patch_size=(8, 8)))
    rows, columns = np.nonzero(batch.images[0, 0].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 5, 2, 4)


def test_a_patch_of_the_image_s_size_is_the_image() -> None:
    case = make_case("whole", (16, 16))
    (batch,) = draw(case, make_training(patch_size=(16, 16)))
    np.testing.assert_array_equal(batch.images[0].numpy(), case.image)
    np.testing.assert_array_equal(batch.labels[0].numpy(), case.label)


def test_patches_of_volumes_lie_on_their_labels_too() -> None:
    case = case_of((np.random.default_rng(0).random((9, 7, 5)) < 0.3).astype(np.uint8))
    experiment = make_experiment(task={"spatial_dims": 3}, training={"patch_size": (4, 8, 4)})
    (batch,) = draw(case, experiment.training)
    inside = batch.images[0, 0] != 0
    assert inside.sum() == 4 * 7 * 4
    assert (batch.images[0, 0][inside] - 5 == batch.labels[0][inside]).all()


def one_corner() -> PreprocessedCase:
    label = np.zeros((64, 64), np.uint8)
    label[60:, 60:] = 1
    return case_of(label)


@pytest.mark.parametrize(("fraction", "low", "high"), [(0.0, 0.0, 0.12), (0.5, 0.4, 0.65), (1.0, 1.0, 1.0)])
def test_the_share_of_patches_with_foreground_is_the_one_asked_for(
    fraction: float, low: float, high: float
) -> None:
    drawn = draw(one_corner(), make_training(patch_size=(8, 8), foreground_fraction=fraction), passes=200)
    share = np.mean([bool(batch.labels.any()) for batch in drawn])
    assert low <= share <= high


def test_a_small_label_is_drawn_as_often_as_a_large_one() -> None:
    label = np.zeros((64, 64), np.uint8)
    label[:32] = 1
    label[62, 62] = 2
    drawn = draw(case_of(label), make_training(patch_size=(4, 4), foreground_fraction=1.0), passes=200)
    assert 0.4 < np.mean([bool((batch.labels == 2).any()) for batch in drawn]) < 0.6


def test_a_case_without_foreground_gives_patches_from_anywhere() -> None:
    case = case_of(np.zeros((32, 32), np.uint8))
    drawn = draw(case, make_training(patch_size=(8, 8), foreground_fraction=1.0), passes=3)
    assert len(drawn) == 3


@pytest.mark.parametrize(("cases", "batch_size", "sizes"), [(5, 2, [2, 2, 1]), (4, 2, [2, 2]), (1, 4, [1])])
def test_a_pass_shows_every_case_once_and_its_last_batch_may_be_smaller(
    cases: int, batch_size: int, sizes: list[int]
) -> None:
    training = make_training(patch_size=(16, 16), batch_size=batch_size)
    own = [
        replace(make_case("c", (16, 16)), image=np.full((1, 16, 16), n + 1, np.float32)) for n in range(cases)
    ]
    drawn = list(batches(own, training, seed=0, site="north", round_number=1, passes=2))
    assert [len(batch.images) for batch in drawn] == sizes * 2
    assert len(sizes) == steps_in_pass(cases, batch_size)
    for one_pass in (drawn[: len(sizes)], drawn[len(sizes) :]):
        shown = [int(image.max()) for batch in one_pass for image in batch.images]
        assert sorted(shown) == list(range(1, cases + 1))


def test_what_is_drawn_depends_on_seed_site_and_round_and_on_nothing_else() -> None:
    training = make_training(patch_size=(8, 8), augmentation={"flip": (True, True)})

    def drawn(**context: object) -> bytes:
        return b"".join(
            b.images.numpy().tobytes() for b in draw(make_case("c", (40, 40)), training, 4, **context)
        )

    first = drawn()
    np.random.default_rng().random(3)
    assert drawn() == first
    others = [drawn(seed=1), drawn(site="south"), drawn(round_number=2)]
    assert len({first, *others}) == 4


def test_read_only_cases_are_left_as_they_are() -> None:
    case = make_case("c", (20, 20))
    case.image.flags.writeable = case.label.flags.writeable = False
    before = case.image.tobytes() + case.label.tobytes()
    draw(case, make_training(patch_size=(8, 8), augmentation={"flip": (True, True), "noise": 1.0}), passes=5)
    assert case.image.tobytes() + case.label.tobytes() == before


def batch_of(number: int) -> Batch:
    return Batch(torch.full((1, 1, 2, 2), float(number)), torch.zeros(1, 2, 2, dtype=torch.uint8), ((),))


def numbers(drawn: Iterator[Batch]) -> list[float]:
    return [batch.images[0, 0, 0, 0].item() for batch in drawn]


def test_batches_that_are_prepared_ahead_are_the_same_in_the_same_order() -> None:
    assert numbers(one_ahead(batch_of(n) for n in range(5))) == [0, 1, 2, 3, 4]
    assert numbers(one_ahead(iter([]))) == []


def test_a_batch_is_prepared_while_its_predecessor_is_in_use() -> None:
    begun = [threading.Event() for _ in range(4)]

    def drawn() -> Iterator[Batch]:
        for number, event in enumerate(begun):
            event.set()
            yield batch_of(number)

    handed_out = one_ahead(drawn())
    next(handed_out)
    assert begun[1].wait(timeout=10)
    assert not begun[2].wait(timeout=0.05)  # one ahead, no more
    handed_out.close()


def test_an_error_while_preparing_comes_with_its_batch_and_no_thread_stays() -> None:
    def drawn() -> Iterator[Batch]:
        yield batch_of(0)
        raise MemoryError

    handed_out = one_ahead(drawn())
    next(handed_out)
    with pytest.raises(MemoryError):
        next(handed_out)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("patches")]


def test_a_training_that_stops_early_leaves_no_thread() -> None:
    handed_out = one_ahead(batch_of(n) for n in range(5))
    next(handed_out)
    handed_out.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("patches")]
