"""FedAvg with optional server momentum. FedProx differs at the sites alone and is this on the server."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medseg_core.federation.algorithms.base import (
    Accumulator,
    ServerState,
    Upload,
    add_to_sum,
    frozen,
    of_role,
    start_sum,
)
from medseg_core.federation.update import ClientUpdate, ModelSpec, Tensors, check_update


@dataclass(frozen=True)
class FedAvg:
    """The weighted mean of the updates, through momentum when asked.

    With d the mean of (local - global), weighted by cases: v = momentum * v + d, w = w + learning_rate * v.
    Momentum 0 and learning rate 1 are plain averaging. Buffers are averaged only.

    Source: McMahan et al. 2017, algorithm 1; momentum: Hsu et al. 2019, section 4.3 (FedAvgM).
    """

    server_momentum: float = 0.0  # beta in Hsu et al. 2019
    server_learning_rate: float = 1.0  # eta_s in Reddi et al. 2021

    @property
    def uploads(self) -> frozenset[Upload]:
        """Updates alone."""
        return frozenset({"delta"})

    def init(self, weights: Tensors, spec: ModelSpec) -> ServerState:
        """The state of round 0. Raises UpdateError where weights and specification differ."""
        check_update(weights, spec, max_norm=None)
        return ServerState(frozen({name: array.copy() for name, array in weights.items()}))

    def start(self, state: ServerState, spec: ModelSpec) -> Accumulator:
        """An empty sum."""
        assert state.weights.keys() == spec.tensors.keys()
        return start_sum(spec)

    def add(self, accumulator: Accumulator, update: ClientUpdate, weight: int) -> None:
        """Add one update to the sum. Raises UpdateError."""
        add_to_sum(accumulator, update, weight)

    def finish(
        self, accumulator: Accumulator, state: ServerState, *, counted: Mapping[str, tuple[int, int]]
    ) -> tuple[ServerState, dict[str, float]]:
        """The next state; `mean_update_norm` and `step_norm` are L2 norms over the parameters."""
        assert counted.keys() == accumulator.sites
        mean, spec = accumulator.sum.mean(), accumulator.spec
        updates = of_role(mean, spec, "parameter")
        velocity = self._velocity(updates, state)
        steps = {name: np.float32(self.server_learning_rate) * v for name, v in velocity.items()}
        moved = {name: state.weights[name] + steps.get(name, mean[name]) for name in state.weights}
        new_state = ServerState(
            weights=frozen(moved),
            memory={"momentum": frozen(velocity)} if self.server_momentum else {},
            round=state.round + 1,
            counted={**state.counted, **counted},
        )
        return new_state, {"mean_update_norm": _norm(updates), "step_norm": _norm(steps)}

    def _velocity(self, updates: Tensors, state: ServerState) -> dict[str, np.typing.NDArray[np.float32]]:
        """momentum * v + d; v is zero before the first round."""
        before = state.memory.get("momentum", {})
        decay = np.float32(self.server_momentum)
        return {name: decay * before[name] + d if name in before else d for name, d in updates.items()}


def _norm(tensors: Tensors) -> float:
    return math.sqrt(sum(float(np.square(tensor, dtype=np.float64).sum()) for tensor in tensors.values()))
