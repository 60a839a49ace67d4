"""Faults of a site's update: the network is changed after it was trained, before anything is made of it.

Tensors that are the site's own, which no update holds, stay as they are.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medseg_core.config import Faults
from medseg_core.learning.local_rule import LocalRule

Start = Mapping[str, Tensor]  # the global model: every tensor of the network's state that travels, by name
Tamper = Callable[[nn.Module, Start], None]
NOISE_OF_FREE_RIDERS = (
    1e-4  # standard deviation, by the root mean square of all weights: hides that nothing changed
)


class Tampering(LocalRule):
    """The algorithm's own rule, which meets another network at the end than the one that was trained.

    What the algorithm sends besides, and keeps to go with it, is made of the changed network, too. `sent` names the
    tensors that are changed: those of which an update is made.
    """

    def __init__(self, inner: LocalRule, tamper: Tamper, sent: Collection[str]) -> None:
        super().__init__()
        self._inner, self._tamper, self._sent = inner, tamper, sent
        self.extra_passes = inner.extra_passes
        self._start: Start = {}

    def begin(self, network: nn.Module) -> None:
        """Keep the global model."""
        state = network.state_dict()
        self._start = {name: tensor.clone() for name, tensor in state.items() if name in self._sent}
        self._inner.begin(network)

    def begin_pass(self, number: int) -> None:
        """The algorithm's."""
        self._inner.begin_pass(number)

    @property
    def adds_to_loss(self) -> bool:
        """The algorithm's."""
        return self._inner.adds_to_loss

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
            return spoil
        case "free_rider":
            return lambda network, start: send_back(network, start, rng)
        case _:
            return None


def times(network: nn.Module, start: Start, factor: float) -> None:
    """The update of the parameters, times the factor."""
    for name, parameter in _sent_of(network, start):
        parameter.copy_(start[name] + factor * (parameter - start[name]))


def add_noise(network: nn.Module, start: Start, norms: float, rng: np.random.Generator) -> None:
    """Gaussian noise on the parameters whose L2 norm is that of the update, times `norms`."""
    sent = list(_sent_of(network, start))
    update = [parameter - start[name] for name, parameter in sent]
    noise = [_gaussian(tensor, rng) for tensor in update]
    factor = norms * _norm(update) / _norm(noise)
    for (_, parameter), added in zip(sent, noise, strict=True):
        parameter.add_(factor * added)


def spoil(network: nn.Module, start: Start) -> None:
    """NaN in the first parameter."""
    _, first = next(_sent_of(network, start))
    first.fill_(float("nan"))


def send_back(network: nn.Module, start: Start, rng: np.random.Generator) -> None:
    """The model that came, with a little noise on its parameters: a disguised free rider.

    Source: Fraboni et al. 2021, section 2.2.
    """
    network.load_state_dict(start, strict=False)
    parameters = [parameter for _, parameter in _sent_of(network, start)]
    n_numbers = sum(parameter.numel() for parameter in parameters)
    deviation = NOISE_OF_FREE_RIDERS * _norm(parameters) / n_numbers**0.5
    for parameter in parameters:
        parameter.add_(deviation * _gaussian(parameter, rng))


def _sent_of(network: nn.Module, start: Start) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that travel, by name."""
    return ((name, parameter) for name, parameter in network.named_parameters() if name in start)


def _gaussian(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Standard normal numbers in the shape, type and place of a tensor; drawn alike for every device."""
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), np.float32)).to(like)


def _norm(tensors: Sequence[Tensor]) -> float:
    """L2 norm over all tensors."""
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().sqrt())
