"""FedAvg with optional server momentum."""

from dataclasses import dataclass

import numpy as np

from medseg_core.federation.algorithms.base import Algorithm, Array, Means, ServerState
from medseg_core.federation.update import Tensors


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """The weighted mean of the updates, through momentum when asked.

    With d the mean of (local - global), weighted by cases: v = momentum * v + d, w = w + learning_rate * v.
    Momentum 0 and learning rate 1 are plain averaging.

    Source: McMahan et al. 2017, algorithm 1; momentum: Hsu et al. 2019, section 4.3 (FedAvgM).
    """

    server_momentum: float = 0.0  # beta in Hsu et al. 2019
    server_learning_rate: float = 1.0  # eta_s in Reddi et al. 2021

    def step(self, means: Means, state: ServerState) -> tuple[dict[str, Array], dict[str, Tensors]]:
        """learning_rate * v; v is zero before the first round."""
        before, decay = state.memory.get("momentum", {}), np.float32(self.server_momentum)
        velocity = {
            name: np.asarray(decay * before[name] + d) if name in before else d
            for name, d in means.updates.items()
        }
        rate = np.float32(self.server_learning_rate)
        steps = {name: np.asarray(rate * v) for name, v in velocity.items()}
        return steps, {"momentum": velocity} if self.server_momentum else {}
