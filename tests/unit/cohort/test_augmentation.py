from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medseg_core.cohort import augmentation
from medseg_core.cohort.augmentation import augment
from medseg_core.config import Augmentation
from medseg_core.types import IGNORE

INTENSITY = ["gamma", "contrast", "brightness", "noise", "blur", "low_resolution"]
SPATIAL = ["rotation", "scaling", "elastic"]


def only(**probabilities: Any) -> Augmentation:
    """Settings in which nothing happens but what is named."""
    return Augmentation(**{**dict.fromkeys([*INTENSITY, *SPATIAL], 0.0), **probabilities})


def make_patches(*size: int, n: int = 2, channels: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(n, channels, *size, generator=rng)
    return images, torch.randint(0, 3, (n, *size), generator=rng).to(torch.uint8)


def make_ball(*size: int) -> tuple[Tensor, Tensor]:
    """An image that equals its label: a ball off the middle, well inside."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    label = (sum((a - 0.15) ** 2 for a in axes) < 0.25).to(torch.uint8)[None]  # type: ignore[union-attr]
    return label.float()[:, None], label


def run(images: Tensor, labels: Tensor, wanted: Augmentation, seed: int = 0) -> tuple[Tensor, Tensor]:
    return augment(images, labels, wanted, torch.Generator().manual_seed(seed))


@given(
    size=st.lists(st.integers(1, 12), min_size=2, max_size=3),
    channels=st.integers(1, 3),
    label_type=st.sampled_from([torch.uint8, torch.int64]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=40, deadline=None)
def test_shape_and_type_stay_and_no_label_is_invented(
    size: list[int], channels: int, label_type: torch.dtype, seed: int
) -> None:
    images, labels = make_patches(*size, channels=channels, seed=seed)
    labels = (labels * 2).to(label_type)  # 0, 2, 4: a value between them would be new
    everything = Augmentation(flip=(True,) * len(size), **dict.fromkeys([*INTENSITY, *SPATIAL], 0.7))  # type: ignore[arg-type]
    new_images, new_labels = run(images, labels, everything, seed)
    assert (new_images.shape, new_images.dtype) == (images.shape, torch.float32)
    assert (new_labels.shape, new_labels.dtype) == (labels.shape, label_type)
    assert new_images.isfinite().all()
    for before, after in zip(labels, new_labels, strict=True):
        assert set(after.unique().tolist()) <= {*before.unique().tolist(), IGNORE}


@pytest.mark.parametrize("size", [(9, 8), (7, 6, 5)])
def test_nothing_changes_where_every_probability_is_zero(size: tuple[int, ...]) -> None:
    images, labels = make_patches(*size)
    new_images, new_labels = run(images, labels, only())
    assert torch.equal(new_images, images)
    assert torch.equal(new_labels, labels)


@pytest.mark.parametrize("name", [*INTENSITY, *SPATIAL])
def test_each_transform_alone_changes_images_and_leaves_the_arguments_as_they_were(name: str) -> None:
    images, labels = make_patches(16, 15, 14)
    before = images.clone(), labels.clone()
    new_images, new_labels = run(images, labels, only(**{name: 1.0}))
    assert not torch.allclose(new_images, images, atol=1e-3)
    assert torch.equal(new_labels, labels) is (name in INTENSITY)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_equal_generators_give_equal_results_and_the_global_one_has_no_say(seed: int) -> None:
    images, labels = make_patches(9, 8, 7)
    torch.manual_seed(1)
    one = run(images, labels, Augmentation(), seed)
    torch.manual_seed(2)
    other = run(images, labels, Augmentation(), seed)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_a_samples_changes_do_not_depend_on_the_batch_size(seed: int) -> None:
    images, labels = make_patches(9, 8, 7, n=4)
    together = run(images, labels, Augmentation(), seed)
    generator = torch.Generator().manual_seed(seed)
    halves = [augment(images[i : i + 2], labels[i : i + 2], Augmentation(), generator) for i in (0, 2)]
    assert torch.equal(together[0], torch.cat([image for image, _ in halves]))
    assert torch.equal(together[1], torch.cat([label for _, label in halves]))


@given(size=st.lists(st.integers(4, 9), min_size=2, max_size=3), seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_batch_is_changed_at_once_as_a_gpu_does_or_sample_by_sample(size: list[int], seed: int) -> None:
    images, labels = make_patches(*size, n=6, channels=2, seed=seed)
    wanted = Augmentation(flip=(True,) * len(size), **dict.fromkeys([*INTENSITY, *SPATIAL], 0.6))  # type: ignore[arg-type]
    drawn = [
        augmentation._draw(images.shape[1:], wanted, torch.Generator().manual_seed(seed + n), ())
        for n in range(len(images))
    ]
    together = images.clone(), labels.clone()
    augmentation._augment_in_place(*together, drawn)
    for n, changes in enumerate(drawn):
        image, label = images[n : n + 1].clone(), labels[n : n + 1].clone()
        augmentation._augment_in_place(image, label, [changes])
        torch.testing.assert_close(together[0][n : n + 1], image)
        assert torch.equal(together[1][n : n + 1], label)


@pytest.mark.parametrize("size", [(48, 40), (28, 32, 24)])
@pytest.mark.parametrize("wanted", [*SPATIAL, "all"])
def test_image_and_label_move_together(size: tuple[int, ...], wanted: str) -> None:
    images, labels = make_ball(*size)
    names = SPATIAL if wanted == "all" else [wanted]
    for seed in range(5):
        image, label = run(images, labels, only(flip=(True,) * len(size), **dict.fromkeys(names, 1.0)), seed)
        known = label[0] != IGNORE
        inside, truth = (image[0, 0] > 0.5)[known], (label[0] == 1)[known]
        assert 2 * (inside & truth).sum() / (inside.sum() + truth.sum()) > 0.95


def test_a_quarter_turn_turns_and_never_mirrors_and_what_was_outside_is_not_annotated() -> None:
    images = torch.arange(8.0).view(1, 1, 2, 4)
    labels = torch.tensor([[[0, 1, 2, 3], [4, 5, 6, 7]]], dtype=torch.uint8)
    wanted = only(rotation=1.0, rotation_degrees=90)
    turned = {
        tuple(run(images, labels, wanted, seed)[1][0, :, 1:3].flatten().tolist()) for seed in range(100)
    }
    assert {(2, 6, 1, 5), (5, 1, 6, 2)} <= turned  # close to 90 degrees one way and the other
    assert not {(1, 5, 2, 6), (6, 2, 5, 1)} & turned
    outside = [run(images, labels, wanted, seed)[1][0, 0, 0].item() for seed in range(100)]
    assert set(outside) <= {0, 1, 4, 5, IGNORE}
    assert IGNORE in outside


def test_scaling_up_makes_objects_larger_by_the_factor() -> None:
    images, labels = make_ball(41, 41)
    _, larger = run(images, labels, only(scaling=1.0, scaling_range=(1.5, 1.5)))
    assert (larger == 1).sum() / (labels == 1).sum() == pytest.approx(1.5**2, rel=0.05)
    assert not (larger == IGNORE).any()


def test_scaling_down_leaves_a_margin_of_repeated_border_that_is_not_annotated() -> None:
    images, labels = torch.full((1, 1, 40, 40), 3.0), torch.ones(1, 40, 40, dtype=torch.uint8)
    image, label = run(images, labels, only(scaling=1.0, scaling_range=(0.5, 0.5)))
    assert torch.equal(image, images)
    assert (label == 1).sum() == 20 * 20
    assert (label == IGNORE).sum() == 40 * 40 - 20 * 20


def test_what_was_not_annotated_stays_so() -> None:
    images, labels = make_patches(12, 12, 12)
    labels[:] = IGNORE
    _, new_labels = run(images, labels, only(rotation=1.0, elastic=1.0))
    assert (new_labels == IGNORE).all()


def test_only_the_axes_named_are_flipped() -> None:
    images, labels = make_patches(5, 6, 7)
    seen = set()
    for seed in range(20):
        image, label = run(images, labels, only(flip=(False, True, False)), seed)
        seen |= {torch.equal(image[0], images[0]), not torch.equal(image[0], images[0].flip(2))}
        assert torch.equal(label[0], labels[0]) or torch.equal(label[0], labels[0].flip(1))
    assert seen == {True, False}


def test_brightness_is_a_factor_within_its_range() -> None:
    images, labels = make_patches(6, 6)
    image, _ = run(images, labels, only(brightness=1.0))
    factor = image / images
    assert 0.75 <= factor[0, 0, 0, 0] <= 1.25
    torch.testing.assert_close(factor[0], factor[0, 0, 0, 0].expand(1, 6, 6))


def test_contrast_keeps_the_mean_nearly_and_the_range_wholly() -> None:
    images, labels = make_patches(20, 20, 20)
    for seed in range(5):
        image, _ = run(images, labels, only(contrast=1.0), seed)
        assert image.min() >= images.min()
        assert image.max() <= images.max()
        torch.testing.assert_close(image.mean(), images.mean(), atol=0.02, rtol=0)


def test_gamma_keeps_the_order_the_mean_and_the_spread_of_intensities() -> None:
    images, labels = make_patches(20, 20, channels=2)
    for seed in range(10):
        image, _ = run(images, labels, only(gamma=1.0), seed)
        order = images[0, 0].flatten().argsort()
        assert (image[0, 0].flatten()[order].diff() >= 0).all()
        torch.testing.assert_close(image.mean((2, 3)), images.mean((2, 3)), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(image.std((2, 3)), images.std((2, 3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gamma", "contrast", "blur", "low_resolution", *SPATIAL])
def test_a_constant_image_stays_constant(name: str) -> None:
    images, labels = torch.full((2, 1, 9, 8, 7), -2.5), make_patches(9, 8, 7)[1]
    image, _ = run(images, labels, only(**{name: 1.0}))
    torch.testing.assert_close(image, images)


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_smoothing_takes_noise_away_and_leaves_a_straight_ramp_inside(name: str) -> None:
    noise, labels = make_patches(20, 22, 24)
    smooth, _ = run(noise, labels, only(**{name: 1.0}))
    assert (smooth.std((1, 2, 3, 4)) < noise.std((1, 2, 3, 4))).all()
    ramp = torch.arange(24.0).expand(2, 1, 20, 22, 24)
    changed, _ = run(ramp, labels, only(**{name: 1.0}))
    torch.testing.assert_close(changed[..., 5:-5], ramp[..., 5:-5], atol=0.75, rtol=0)


def test_blurring_a_large_patch_makes_no_subnormal_number() -> None:
    images, labels = torch.zeros(2, 1, 40, 56, 40), make_patches(40, 56, 40)[1]
    images[..., 10:30, 14:42, 10:30] = 1.0  # in the middle of zeros, as an image smaller than its patch
    image, _ = run(images, labels, only(blur=1.0))
    tiny = torch.finfo(torch.float32).tiny
    assert not ((image != 0) & (image.abs() < tiny)).any()
    torch.testing.assert_close(image.sum(), images.sum())


def test_noise_is_within_its_strength() -> None:
    images, labels = make_patches(30, 30)
    added = run(images, labels, only(noise=1.0))[0] - images
    assert 0 < added.std() < 0.11
    assert added.mean().abs() < 0.02


def test_a_transform_happens_as_often_as_its_probability_says() -> None:
    images, labels = make_patches(2, 2, n=2000)
    image, _ = run(images, labels, only(brightness=0.15))
    changed = (image != images).flatten(1).any(1).float().mean()
    assert changed.item() == pytest.approx(0.15, abs=0.03)
