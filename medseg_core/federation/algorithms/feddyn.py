"""FedDyn: each site's loss is changed so that its minimum moves to that of all sites together."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from medseg_core.federation.algorithms.base import Algorithm, Array, Means, ServerState, zeros
from medseg_core.federation.update import ModelSpec, Tensors
from medseg_core.learning.local_rule import LocalRule, parameters_of, to_tensors
from medseg_core.learning.weights import Kinds


@dataclass(frozen=True)
class FedDyn(Algorithm):
    """Sites step by g - g_i + alpha (w - global), then g_i' = g_i - alpha (local - global); h = h - alpha share d,
    w = global + d - h / alpha, with d the mean of (local - global).

    Both sides take (local - global) as it arrives, after policy and codec: h stays the mean of g_i.
    Means are weighted by cases (in the paper all sites weigh the same).
    Source: Acar et al. 2021, algorithm 1.
    """

    weight: float = 0.01  # alpha

    @property
    def remembers(self) -> bool:
        """Its gradient."""
        return True

    def local_rule(self, received: Kinds, memory: Kinds) -> LocalRule:
        """The dynamic regulariser."""
        return Regularised(self.weight, memory.get("gradient"))

    def init(self, weights: Tensors, spec: ModelSpec) -> ServerState:
        """The state of round 0, h zero. Raises UpdateError where weights and specification differ."""
        return ServerState(super().init(weights, spec).weights, {"h": zeros(spec)})

    def step(self, means: Means, state: ServerState) -> tuple[dict[str, Array], dict[str, Tensors]]:
        """d - h / alpha."""
        alpha, part = np.float32(self.weight), np.float32(self.weight * means.accumulator.share)
        h = {name: state.memory["h"][name] - part * d for name, d in means.updates.items()}
        return {name: d - np.divide(h[name], alpha) for name, d in means.updates.items()}, {"h": h}


class Regularised(LocalRule):
    """The gradient of the regularised loss; what the site learns of its own gradient stays here."""

    def __init__(self, weight: float, gradient: Tensors | None) -> None:
        super().__init__()
        self._weight, self._given = weight, gradient
        self._start, self._gradient = list[Tensor](), list[Tensor]()
        self._names: tuple[str, ...] = ()

    def begin(self, network: nn.Module) -> None:
        """Keep the global model; the site's gradient is zero before its first counted round."""
        self._start, self._gradient = parameters_of(network), to_tensors(network, self._given)
        self._names = tuple(name for name, _ in network.named_parameters())

    def adjust_gradients(self, network: nn.Module) -> None:
        """g - g_i + alpha (w - global)."""
        for parameter, start, own in zip(network.parameters(), self._start, self._gradient, strict=True):
            if parameter.grad is not None:
                parameter.grad.sub_(own).add_(parameter.detach() - start, alpha=self._weight)

    def released(self, arriving: Tensors) -> None:
        """g_i' = g_i - alpha (local - global)."""
        alpha, before = np.float32(self._weight), self._given
        steps = {name: alpha * arriving[name] for name in self._names}
        self.memory = {"gradient": {n: before[n] - step if before else -step for n, step in steps.items()}}
