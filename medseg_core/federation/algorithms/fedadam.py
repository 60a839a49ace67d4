"""FedAdam."""

from dataclasses import dataclass

import numpy as np

from medseg_core.federation.algorithms.adaptive import AdaptiveAlgorithm
from medseg_core.federation.algorithms.base import Array


@dataclass(frozen=True)
class FedAdam(AdaptiveAlgorithm):
    """v = beta_2 v + (1 - beta_2) d^2. Source: Reddi et al. 2021, algorithm 2."""

    def second_moment(self, before: Array, squares: Array) -> Array:
        """v of this round."""
        beta = self.second_momentum
        return np.float32(beta) * before + np.float32(1 - beta) * squares
