"""What an algorithm adds to local training: the one hook in the loop of `local_training`."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from medseg_core.learning.weights import Array, Kinds, Weights, to_array


class LocalRule:
    """Does nothing, as FedAvg needs. One object for one training; an algorithm overrides what it changes.

    `uploads` are the tensors that go with the update, `memory` those that stay at the site for its next round: both
    by kind, there after `end` and `released`. `is_sent` tells whether an update is made of the network, or it is the
    site's own.

    Python code that a rule hangs on the network runs in every step only if the rule adds to the loss: others may be
    recorded and replayed, see `Gradients`.
    """

    def __init__(self, *, is_sent: bool = True) -> None:
        self.is_sent = is_sent
        self.uploads: Kinds = {}
        self.memory: Kinds = {}
        self.extra_passes = 0  # over the cases, besides [federation] local_epochs

    @property
    def adds_to_loss(self) -> bool:
        """Whether `extra_loss` may give something."""
        return type(self).extra_loss is not LocalRule.extra_loss

    def begin(self, network: nn.Module) -> None:
        """The network holds the global model."""

    def begin_pass(self, number: int) -> None:
        """The next pass over the cases begins; 0 is the first of the round."""

    def extra_loss(self, network: nn.Module, images: Tensor) -> Tensor | None:
        """What is added to the loss of a batch, images of shape (b, c, *s); None for nothing."""
        return None

    def adjust_gradients(self, network: nn.Module) -> None:
        """Change the gradients of a step before they are clipped."""

    def leave(self, network: nn.Module) -> None:
        """The steps are over, or were cut off: take off the network whatever was put on it."""

    def end(self, network: nn.Module, rates: Sequence[float], momentum: float) -> None:
        """The network is trained and left; `rates` are the learning rates of its steps, `momentum` that of its SGD."""

    def released(self, arriving: Mapping[str, Array]) -> None:
        """What arrives of the update: policy or a codec may have taken from how far the network was trained."""


def parameters_of(network: nn.Module) -> list[Tensor]:
    """Copies of all parameters, on their device."""
    return [parameter.detach().clone() for parameter in network.parameters()]


def to_weights(network: nn.Module, tensors: Sequence[Tensor]) -> Weights:
    """Tensors in the order of the network's parameters, as arrays under their names."""
    named = zip(network.named_parameters(), tensors, strict=True)
    return {name: to_array(tensor) for (name, _), tensor in named}


def to_tensors(network: nn.Module, weights: Mapping[str, Array] | None) -> list[Tensor]:
    """Arrays under the names of the network's parameters, on its device; zeros where there are none yet."""
    if not weights:
        return [torch.zeros_like(parameter) for parameter in network.parameters()]
    return [
        torch.tensor(weights[name], device=p.device, dtype=p.dtype) for name, p in network.named_parameters()
    ]


def pull(rates: Sequence[float], momentum: float) -> float:
    """How far a constant gradient of 1 would move a weight in steps of SGD with Nesterov momentum.

    In step t, from 1, the momentum m has gathered (1 - m^t) / (1 - m) of it, and the step is 1 and m times that:
    (1 - m^(t + 1)) / (1 - m). At a constant rate this is Wang et al. 2020's ||a||_1 times the rate.
    """
    if not momentum:
        return math.fsum(rates)
    return math.fsum(
        rate * (1 - momentum ** (t + 1)) / (1 - momentum) for t, rate in enumerate(rates, start=1)
    )
