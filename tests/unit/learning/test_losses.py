import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medseg_core.learning.losses import LossName, build_loss
from medseg_core.types import IGNORE

NAMES: tuple[LossName, ...] = get_args(LossName)


def make_batch(
    *, n_classes: int = 3, size: tuple[int, ...] = (6, 5, 4), seed: int = 0
) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, n_classes, *size, generator=rng).requires_grad_()
    return logits, torch.randint(0, n_classes, (2, *size), generator=rng)


def value_and_gradient(loss: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def monai_loss(name: LossName, n_classes: int) -> Any:
    """The same loss from MONAI, where it has no ignore region and needs labels `(b, 1, *s)`."""
    from monai.losses import DiceLoss, FocalLoss, GeneralizedDiceLoss, TverskyLoss

    overlap: dict[str, Any] = {"softmax": True, "to_onehot_y": True, "batch": True}
    foreground = {**overlap, "include_background": False}
    dice, focal = DiceLoss(**foreground), FocalLoss(use_softmax=True, to_onehot_y=True)
    match name:
        case "dice":
            return dice
        case "dice_ce":
            return lambda logits, t: dice(logits, t) + torch.nn.functional.cross_entropy(logits, t[:, 0])
        case "dice_focal":  # MONAI's mean is over classes too
            return lambda logits, t: dice(logits, t) + focal(logits, t) * n_classes
        case "tversky":
            return TverskyLoss(alpha=0.3, beta=0.7, **foreground)
        case "generalised_dice":
            return GeneralizedDiceLoss(smooth_nr=0, smooth_dr=0, **overlap)


@pytest.mark.parametrize("size", [(12, 9), (6, 5, 4)])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_a_fully_annotated_batch_scores_as_with_monai(
    name: LossName, n_classes: int, size: tuple[int, ...]
) -> None:
    logits, target = make_batch(n_classes=n_classes, size=size)
    value, gradient = value_and_gradient(build_loss(name, n_classes), logits, target)
    expected, expected_gradient = value_and_gradient(monai_loss(name, n_classes), logits, target.unsqueeze(1))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dice", 1 - 2 * 0.75 / (1.5 + 1)),
        ("dice_ce", 0.4 - (math.log(0.75) + math.log(0.25)) / 2),
        ("dice_focal", 0.4 - (0.25**2 * math.log(0.75) + 0.75**2 * math.log(0.25)) / 2),
        ("tversky", 1 - 0.75 / (0.75 + 0.3 * 0.75 + 0.7 * 0.25)),
        ("generalised_dice", 1 - 2 * (0.25 + 0.75) / (0.5 + 1.5 + 1 + 1)),
    ],
)
def test_two_pixels_score_as_counted_by_hand(name: LossName, expected: float) -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)]]).view(
        1, 2, 1, 2
    )  # foreground 0.75 in both
    target = torch.tensor([1, 0]).view(1, 1, 2)
    assert build_loss(name, 2)(logits, target).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_ignore_region_gets_no_gradient_and_changes_nothing(name: LossName) -> None:
    logits, target = make_batch(size=(6, 8))
    target[:, 3:] = IGNORE
    loss = build_loss(name, 3)
    value, gradient = value_and_gradient(loss, logits, target)
    seen = logits[:, :, :3].detach().requires_grad_()
    alone, gradient_alone = value_and_gradient(loss, seen, target[:, :3])
    assert torch.count_nonzero(gradient[:, :, 3:]) == 0
    assert torch.count_nonzero(gradient[:, :, :3]) > 0
    torch.testing.assert_close(value, alone)
    torch.testing.assert_close(gradient[:, :, :3], gradient_alone)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_annotation_has_loss_zero_and_no_gradient(name: LossName) -> None:
    logits, target = make_batch()
    value, gradient = value_and_gradient(build_loss(name, 3), logits, torch.full_like(target, IGNORE))
    assert value == 0
    assert torch.count_nonzero(gradient) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_sure_and_right_prediction_costs_next_to_nothing(name: LossName) -> None:
    _, target = make_batch()
    logits = 30.0 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    assert build_loss(name, 3)(logits, target).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.0, 1.0, 100.0]))
@settings(max_examples=10, deadline=None)
def test_losses_and_gradients_are_finite_whatever_classes_are_absent(
    name: LossName, seed: int, scale: float
) -> None:
    logits, target = make_batch(n_classes=4, size=(5, 5), seed=seed)
    scaled = (logits * scale).detach().requires_grad_()
    value, gradient = value_and_gradient(build_loss(name, 4), scaled, target % (1 + seed % 4))
    assert value >= 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_bytes_and_long_integers_are_targets_alike(name: LossName) -> None:
    logits, target = make_batch()
    target[0, 0] = IGNORE
    loss = build_loss(name, 3)
    assert loss(logits, target.to(torch.uint8)) == loss(logits, target)


@pytest.mark.parametrize("name", NAMES)
def test_arithmetic_is_float32_under_autocast(name: LossName) -> None:
    logits, target = make_batch()
    half = logits.detach().bfloat16()
    loss = build_loss(name, 3)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half, target)
    assert value.dtype == torch.float32
    assert value == loss(half.float(), target)
