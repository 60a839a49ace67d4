"""What fedadagrad, fedadam and fedyogi have in common: a server step scaled by the second moment of the updates."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from medseg_core.federation.algorithms.base import Algorithm, Array, Means, ServerState
from medseg_core.federation.update import ModelSpec, Tensors


@dataclass(frozen=True)
class AdaptiveAlgorithm(Algorithm):
    """With d the mean update: m = beta_1 m + (1 - beta_1) d, v by the optimiser, w = w + eta m / (sqrt(v) + tau).

    m is zero and v is tau^2 before the first round; there is no correction of their bias.
    Source: Reddi et al. 2021, algorithm 2.
    """

    learning_rate: float  # eta
    momentum: float  # beta_1
    second_momentum: float  # beta_2
    epsilon: float  # tau

    def init(self, weights: Tensors, spec: ModelSpec) -> ServerState:
        """The state of round 0. Raises UpdateError where weights and specification differ."""
        state = super().init(weights, spec)
        parameters = [name for name, tensor in spec.tensors.items() if tensor.role == "parameter"]
        square = np.float32(self.epsilon**2)
        memory = {
            "momentum": {name: np.zeros_like(state.weights[name]) for name in parameters},
            "second_moment": {name: np.full_like(state.weights[name], square) for name in parameters},
        }
        return ServerState(state.weights, memory)

    def step(self, means: Means, state: ServerState) -> tuple[dict[str, Array], dict[str, Tensors]]:
        """eta m / (sqrt(v) + tau)."""
        beta, fresh, before = np.float32(self.momentum), np.float32(1 - self.momentum), state.memory
        first = {name: beta * before["momentum"][name] + fresh * d for name, d in means.updates.items()}
        second: dict[str, Array] = {
            name: self.second_moment(before["second_moment"][name], np.square(d))
            for name, d in means.updates.items()
        }
        eta, tau = np.float32(self.learning_rate), np.float32(self.epsilon)
        steps: dict[str, Array] = {
            name: np.divide(eta * first[name], np.sqrt(second[name]) + tau) for name in means.updates
        }
        return steps, {"momentum": first, "second_moment": second}

    @abstractmethod
    def second_moment(self, before: Array, squares: Array) -> Array:
        """v of this round, from v of the last one and the squared mean updates."""
