"""MOON: features of the local network are drawn to those of the global one, away from those of the last local one."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg_core.federation.algorithms.base import Array
from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.weights import Kinds, get_weights, set_weights


@dataclass(frozen=True)
class Moon(FedAvg):
    """Adds weight * -log(exp(s_g / t) / (exp(s_g / t) + exp(s_p / t))) to the loss of each site.

    s_g and s_p are cosines between the features of the network in training and those of the global model, and of the
    site's model of its last counted round; none before. Features: the deepest layer's output, averaged over space (the
    paper's classifier has a projection head, which a U-Net has not). Source: Li et al. 2021, equations 2 and 3.
    """

    weight: float = 1.0  # mu
    temperature: float = 0.5  # tau

    @property
    def remembers(self) -> bool:
        """Its last model."""
        return True

    def local_rule(self, received: Kinds, memory: Kinds) -> LocalRule:
        """The contrastive term."""
        return Contrastive(self.weight, self.temperature, memory.get("previous"))


class Contrastive(LocalRule):
    """Three networks look at each batch: the one in training, the global one, the one of the last round."""

    def __init__(self, weight: float, temperature: float, previous: Mapping[str, Array] | None) -> None:
        super().__init__()
        self._weight, self._temperature, self._previous = weight, temperature, previous
        self._watch: FeatureWatch | None = None
        self._others: list[FeatureWatch] = []

    def begin(self, network: nn.Module) -> None:
        """Keep the global model, and bring back the last local one."""
        if self._previous and self._weight:
            last = copy.deepcopy(network)
            set_weights(last, self._previous)
            self._others = [FeatureWatch(copy.deepcopy(network).eval()), FeatureWatch(last.eval())]
            self._watch = FeatureWatch(network)

    def extra_loss(self, network: nn.Module, images: Tensor) -> Tensor | None:
        """The contrastive loss, from the features of the forward pass that was just done."""
        if self._watch is None:
            return None
        own = self._watch.features
        with torch.no_grad():
            to_global, to_last = [other.look(images) for other in self._others]
        cosines = torch.stack([functional.cosine_similarity(own, other) for other in (to_global, to_last)], 1)
        targets = torch.zeros(
            len(cosines), dtype=torch.long, device=cosines.device
        )  # the first is to be large
        return self._weight * functional.cross_entropy(cosines.float() / self._temperature, targets)

    def leave(self, network: nn.Module) -> None:
        """Watch it no more."""
        if self._watch is not None:
            self._watch.close()
        self._watch, self._others = None, []

    def end(self, network: nn.Module, rates: Sequence[float], momentum: float) -> None:
        """Keep the trained network for the next round."""
        self.memory = {"previous": get_weights(network)}


class FeatureWatch:
    """Notes what the deepest layer of a network gave in its last forward pass."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._smallest: tuple[int, int] | None = None
        self._found = torch.empty(0)
        layers = [module for module in network.modules() if not list(module.children())]
        self._handles = [layer.register_forward_hook(self._note) for layer in layers]
        self._before = network.register_forward_pre_hook(self._forget)

    @property
    def features(self) -> Tensor:
        """Of shape (b, channels): averaged over space."""
        return self._found.flatten(2).mean(2)

    def look(self, images: Tensor) -> Tensor:
        """The features of a batch."""
        self._network(images)
        return self.features

    def close(self) -> None:
        """Watch no more."""
        for handle in (*self._handles, self._before):
            handle.remove()

    def _forget(self, *_: object) -> None:
        self._smallest = None

    def _note(self, layer: nn.Module, inputs: object, output: object) -> None:
        """Of the outputs with the fewest positions, the last with the most channels is kept."""
        if not isinstance(output, Tensor) or output.ndim < 4:
            return
        size = (output[0, 0].numel(), -output.shape[1])
        if self._smallest is None or size <= self._smallest:
            self._smallest, self._found = size, output
