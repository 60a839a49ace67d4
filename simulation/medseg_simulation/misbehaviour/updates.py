"""Faults of a site's update: the network is changed after it was trained, before anything is made of it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medseg_core.config import Faults
from medseg_core.learning.local_rule import LocalRule

Start = Mapping[str, Tensor]  # the global model: every tensor of the network's state by name
Tamper = Callable[[nn.Module, Start], None]
NOISE_OF_FREE_RIDERS = (
    1e-4  # standard deviation, by the root mean square of all weights: hides that nothing changed
)


class Tampering(LocalRule):
    """The algorithm's own rule, which meets another network at the end than the one that was trained.

    What the algorithm sends besides, or keeps, is made of the changed network, too.
    """

    def __init__(self, inner: LocalRule, tamper: Tamper) -> None:
        super().__init__()
        self._inner, self._tamper = inner, tamper
        self.extra_passes = inner.extra_passes
        self._start: Start = {}

    def begin(self, network: nn.Module) -> None:
        """Keep the global model."""
        self._start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self._inner.begin(network)

    def begin_pass(self, number: int) -> None:
        """The algorithm's."""
        self._inner.begin_pass(number)

    def extra_loss(self, network: nn.Module, images: Tensor) -> Tensor | None:
        """The algorithm's."""
        return self._inner.extra_loss(network, images)

    def adjust_gradients(self, network: nn.Module) -> None:
        """The algorithm's."""
        self._inner.adjust_gradients(network)

    def leave(self, network: nn.Module) -> None:
        """The algorithm's."""
        self._inner.leave(network)

    def end(self, network: nn.Module, rates: Sequence[float], momentum: float) -> None:
        """Tamper, then let the algorithm do its part."""
        with torch.no_grad():
            self._tamper(network, self._start)
        self._inner.end(network, rates, momentum)
        self.uploads, self.memory = self._inner.uploads, self._inner.memory


def tamper_of(faults: Faults, rng: np.random.Generator) -> Tamper | None:
    """What the fault does to a trained network; None for faults of another sort."""
    match faults.kind:
        case "sign_flip":
            return lambda network, start: times(network, start, -1.0)
        case "scale":
            return lambda network, start: times(network, start, faults.scale)
        case "noise":
            return lambda network, start: add_noise(network, start, faults.noise_norms, rng)
        case "nan":
            return lambda network, start: spoil(network)
        case "free_rider":
            return lambda network, start: send_back(network, start, rng)
        case _:
            return None


def times(network: nn.Module, start: Start, factor: float) -> None:
    """The update of the parameters, times the factor."""
    for name, parameter in network.named_parameters():
        parameter.copy_(start[name] + factor * (parameter - start[name]))


def add_noise(network: nn.Module, start: Start, norms: float, rng: np.random.Generator) -> None:
    """Gaussian noise on the parameters whose L2 norm is that of the update, times `norms`."""
    update = [parameter - start[name] for name, parameter in network.named_parameters()]
    noise = [_gaussian(tensor, rng) for tensor in update]
    factor = norms * _norm(update) / _norm(noise)
    for parameter, own in zip(network.parameters(), noise, strict=True):
        parameter.add_(factor * own)


def spoil(network: nn.Module) -> None:
    """NaN in the first parameter."""
    next(network.parameters()).fill_(float("nan"))


def send_back(network: nn.Module, start: Start, rng: np.random.Generator) -> None:
    """The model that came, with a little noise on its parameters: a disguised free rider.

    Source: Fraboni et al. 2021, section 2.2.
    """
    network.load_state_dict(start)
    parameters = list(network.parameters())
    n_numbers = sum(parameter.numel() for parameter in parameters)
    deviation = NOISE_OF_FREE_RIDERS * _norm(parameters) / n_numbers**0.5
    for parameter in parameters:
        parameter.add_(deviation * _gaussian(parameter, rng))


def _gaussian(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Standard normal numbers in the shape, type and place of a tensor; drawn alike for every device."""
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), np.float32)).to(like)


def _norm(tensors: Sequence[Tensor]) -> float:
    """L2 norm over all tensors."""
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().sqrt())
