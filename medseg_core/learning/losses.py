"""The losses of `[training] loss`: logits and mapped labels in, one number to minimise out.

Written out rather than taken from MONAI, few of whose losses leave a region out; equal to it where all is annotated.

Common to all of them:

- Voxels whose target is IGNORE count nowhere and get no gradient.
- Probabilities are a softmax over classes; overlaps are over foreground classes unless said otherwise.
- Overlaps are counted over the batch together, not per sample: a patch with little or nothing of a class then
  adds its false positives to the count, instead of a Dice of 0/0 (nnU-Net's `batch_dice`).
- Arithmetic is float32, also under autocast.
- A batch without one annotated voxel has loss 0 and no gradient.
- Where a class is not annotated, background may be that class: its probability is added to that of background, and the
  class itself counts nowhere. Source: the marginal loss of Shi et al. 2021 (arXiv:2007.03868).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional

LossName = Literal["dice", "dice_ce", "dice_focal", "tversky", "generalised_dice"]
Logits = Float[Tensor, "b k *s"]
Target = Integer[Tensor, "b *s"]
Unknown = Bool[Tensor, "b k"]

SMOOTH = 1e-5  # nnU-Net and MONAI: only where a class is neither there nor predicted does it matter
FOCUS = 2.0  # gamma in Lin et al. 2017, section 4
FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7  # alpha and beta in Salehi et al. 2017, table 1


@runtime_checkable
class Loss(Protocol):
    """What `build_loss` gives."""

    def __call__(self, logits: Logits, target: Target, unknown: Unknown | None = None) -> Float[Tensor, ""]:
        """A number to minimise. `unknown` marks the classes that are not annotated in a sample, never background."""
        ...


def build_loss(name: LossName, n_classes: int) -> Loss:
    """The loss: logits `(b, n_classes, *s)` and target `(b, *s)`, 0..n_classes - 1 or IGNORE, to a scalar."""
    formula = _formula(name)

    def loss(logits: Logits, target: Target, unknown: Unknown | None = None) -> Float[Tensor, ""]:
        return formula(_compare(logits, target, n_classes, unknown))

    return loss


def mark_unknown(not_annotated: Sequence[Sequence[int]], n_classes: int) -> Unknown:
    """The classes that are not annotated in each sample, as a mask."""
    unknown = torch.zeros(len(not_annotated), n_classes, dtype=torch.bool)
    for sample, classes in enumerate(not_annotated):
        unknown[sample, list(classes)] = True
    return unknown


@dataclass(frozen=True)
class _Comparison:
    """What the losses need, `(b, k, *s)` float32; `truth` is 0 for all classes where the target is IGNORE."""

    log_p: Tensor
    p: Tensor
    truth: Tensor
    annotated: Tensor  # (b, 1, *s)
    known: Tensor | None = None  # (k,): whether some sample has the class annotated; None: all are

    def mean(self, per_class: Tensor) -> Tensor:
        """Sum of `(b, k, *s)` over all, by annotated voxel."""
        return per_class.sum() / self.annotated.sum().clamp(min=1)

    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Soft true positives, predicted and true voxels of each class, over the batch: `(k,)` each."""
        axes = [0, *range(2, self.p.ndim)]
        return (self.p * self.truth).sum(axes), (self.p * self.annotated).sum(axes), self.truth.sum(axes)

    def mean_over_labels(self, scores: Tensor) -> Tensor:
        """Of a score of each foreground class, `(k - 1,)`, over those that are annotated."""
        return (scores if self.known is None else scores[self.known[1:]]).mean()


def _formula(name: LossName) -> Callable[[_Comparison], Tensor]:
    match name:
        case "dice":
            return _dice
        case "dice_ce":
            return lambda c: _dice(c) + _cross_entropy(c)
        case "dice_focal":
            return lambda c: _dice(c) + _focal(c)
        case "tversky":
            return _tversky
        case "generalised_dice":
            return _generalised_dice


def _compare(logits: Tensor, target: Tensor, n_classes: int, unknown: Tensor | None) -> _Comparison:
    """Float one-hot and mask: on a CPU, products with them are many times faster than with booleans."""
    log_p = functional.log_softmax(logits.float(), dim=1)
    classes = torch.arange(n_classes, device=target.device, dtype=target.dtype)
    truth = (target.unsqueeze(1) == classes.view(1, -1, *[1] * (target.ndim - 1))).float()
    annotated = truth.sum(1, keepdim=True)
    if unknown is None or not unknown.any():
        return _Comparison(log_p, log_p.exp(), truth, annotated)
    log_p, p = _marginal(log_p, unknown.to(log_p.device))
    return _Comparison(log_p, p, truth, annotated, known=~unknown.all(0).to(log_p.device))


def _marginal(log_p: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and probabilities after unknown classes went into background; theirs are 0, and 0."""
    hidden = unknown.view(*unknown.shape, *[1] * (log_p.ndim - 2))  # (b, k, 1, ..)
    either = hidden.clone()
    either[:, 0] = True
    background = log_p.masked_fill(~either, -torch.inf).logsumexp(1, keepdim=True)
    log_p = torch.cat([background, log_p[:, 1:].masked_fill(hidden[:, 1:], 0)], dim=1)
    return log_p, log_p.exp().masked_fill(hidden, 0)


def _dice(c: _Comparison) -> Tensor:
    """1 - mean soft Dice. Source: Drozdzal et al. 2016, equation 1 (in Milletari et al. 2016 squared)."""
    overlap, predicted, true = (count[1:] for count in c.counts())
    return 1 - c.mean_over_labels((2 * overlap + SMOOTH) / (predicted + true + SMOOTH))


def _cross_entropy(c: _Comparison) -> Tensor:
    """Mean over annotated voxels, all classes alike."""
    return -c.mean(c.log_p * c.truth)


def _focal(c: _Comparison) -> Tensor:
    """Cross-entropy that fades where the network is sure. Source: Lin et al. 2017, equation 4."""
    return -c.mean((1 - c.p) ** FOCUS * c.log_p * c.truth)


def _tversky(c: _Comparison) -> Tensor:
    """1 - mean Tversky index. Source: Salehi et al. 2017, equation 4."""
    overlap, predicted, true = (count[1:] for count in c.counts())
    errors = FALSE_POSITIVES * (predicted - overlap) + FALSE_NEGATIVES * (true - overlap)
    return 1 - c.mean_over_labels((overlap + SMOOTH) / (overlap + errors + SMOOTH))


def _generalised_dice(c: _Comparison) -> Tensor:
    """1 - Dice with classes weighted by the inverse square of their volume, background too.

    A class that is absent gets the largest weight of those present, as in MONAI.
    Source: Sudre et al. 2017, section 2.1.
    """
    overlap, predicted, true = c.counts()
    weight = torch.where(true > 0, true.clamp(min=1) ** -2, 0)
    weight = torch.where(
        true > 0, weight / weight.max().clamp(min=1e-30), 1
    )  # scaled, or SMOOTH would outweigh them
    return 1 - (2 * (weight * overlap).sum() + SMOOTH) / ((weight * (predicted + true)).sum() + SMOOTH)
