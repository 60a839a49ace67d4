"""The loss where some classes are not annotated: background may be any of them.

Two pixels with the probabilities below. Class 2 is not annotated, so that background has 0.5 and 0.7 in the sum.

| | 0 | 1 | 2 | target |
| --- | --- | --- | --- | --- |
| first | 0.2 | 0.5 | 0.3 | 1 |
| second | 0.1 | 0.3 | 0.6 | 0 |
"""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from medseg_core.learning.losses import LossName, build_loss, mark_unknown
from medseg_core.types import IGNORE

NAMES: tuple[LossName, ...] = get_args(LossName)
P = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])  # (pixel, class)
DICE = 2 * 0.5 / (0.5 + 0.3 + 1)  # of class 1, the only one that is known


def logits_of(p: Tensor) -> Tensor:
    """Logits `(1, k, 1, n)` with these probabilities."""
    return p.log().T[None, :, None].clone().requires_grad_()


def target_of(*classes: int) -> Tensor:
    return torch.tensor(classes).view(1, 1, -1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dice", 1 - DICE),
        ("dice_ce", 1 - DICE - (math.log(0.5) + math.log(0.7)) / 2),
        ("dice_focal", 1 - DICE - (0.5**2 * math.log(0.5) + 0.3**2 * math.log(0.7)) / 2),
        ("tversky", 1 - 0.5 / (0.5 + 0.3 * 0.3 + 0.7 * 0.5)),
        ("generalised_dice", 1 - 2 * (0.7 + 0.5) / (0.5 + 0.7 + 1 + 0.8 + 1)),
    ],
)
def test_two_pixels_score_as_counted_by_hand(name: LossName, expected: float) -> None:
    value = build_loss(name, 3)(logits_of(P), target_of(1, 0), mark_unknown([(2,)], 3))
    assert value.item() == pytest.approx(expected, abs=2e-5)


def test_the_gradient_pulls_background_and_what_it_may_be_alike() -> None:
    """d(-log(p0 + p2)) / dz_k is p_k - p_k / (p0 + p2) for k in {0, 2} and p_k for the rest."""
    logits = logits_of(P[1:])
    entropy = build_loss("dice_ce", 3), build_loss("dice", 3)
    unknown = mark_unknown([(2,)], 3)
    value = entropy[0](logits, target_of(0), unknown) - entropy[1](logits, target_of(0), unknown)
    (gradient,) = torch.autograd.grad(value, logits)
    expected = torch.tensor([0.1 - 0.1 / 0.7, 0.3, 0.6 - 0.6 / 0.7])
    torch.testing.assert_close(gradient.flatten(), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(name: LossName) -> None:
    """By steps of 1 / 64 in each logit: the losses compute in float32."""
    logits, loss, unknown = logits_of(P), build_loss(name, 3), mark_unknown([(2,)], 3)
    (gradient,) = torch.autograd.grad(loss(logits, target_of(1, 0), unknown), logits)
    for place in range(6):
        step = torch.zeros(6)
        step[place] = 1 / 64
        above, below = (
            loss((logits + sign * step.view_as(logits)).detach(), target_of(1, 0), unknown)
            for sign in (1, -1)
        )
        assert gradient.flatten()[place].item() == pytest.approx((above - below).item() * 32, abs=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_a_network_with_the_classes_already_merged(name: LossName) -> None:
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 6, 5, generator=rng)
    target = torch.randint(0, 2, (2, 6, 5), generator=rng)  # classes 0 and 1: 2 and 3 are not annotated
    target[0, 0] = IGNORE
    merged = torch.cat([logits[:, [0, 2, 3]].logsumexp(1, keepdim=True), logits[:, 1:2]], dim=1)
    value = build_loss(name, 4)(logits, target, mark_unknown([(2, 3)] * 2, 4))
    torch.testing.assert_close(value, build_loss(name, 2)(merged, target))


@pytest.mark.parametrize("name", NAMES)
def test_how_background_is_shared_among_what_it_may_be_changes_nothing(name: LossName) -> None:
    loss, unknown = build_loss(name, 3), mark_unknown([(2,)], 3)
    other = torch.tensor([[0.4, 0.5, 0.1], [0.69, 0.3, 0.01]])
    values = [loss(logits_of(p), target_of(1, 0), unknown) for p in (P, other)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("name", NAMES)
def test_where_all_is_annotated_nothing_changes_bit_for_bit(name: LossName) -> None:
    rng = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 6, 5, generator=rng).requires_grad_()
    target = torch.randint(0, 3, (2, 6, 5), generator=rng)
    loss = build_loss(name, 3)
    values = [loss(logits, target), loss(logits, target, mark_unknown([(), ()], 3))]
    gradients = [torch.autograd.grad(value, logits)[0] for value in values]
    assert torch.equal(*values)
    assert torch.equal(*gradients)


def test_samples_of_two_sites_in_one_batch_each_teach_what_they_know() -> None:
    """Pooled training: the Dice of a class counts the samples that have it annotated."""
    logits = torch.cat([logits_of(P), logits_of(P)])
    target = torch.cat([target_of(1, 0), target_of(0, 2)])  # the first knows 1, the second 2
    value = build_loss("dice", 3)(logits, target, mark_unknown([(2,), (1,)], 3))
    other_dice = 2 * 0.6 / (0.3 + 0.6 + 1)
    assert value.item() == pytest.approx(1 - (DICE + other_dice) / 2, abs=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_leave_loss_and_gradient_finite(name: LossName) -> None:
    logits = (logits_of(P).detach() * 1000).requires_grad_()
    value = build_loss(name, 3)(logits, target_of(1, 0), mark_unknown([(2,)], 3))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert gradient.isfinite().all()
