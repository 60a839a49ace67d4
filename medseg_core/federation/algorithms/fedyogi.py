"""FedYogi."""

from dataclasses import dataclass

import numpy as np

from medseg_core.federation.algorithms.adaptive import AdaptiveAlgorithm
from medseg_core.federation.algorithms.base import Array


@dataclass(frozen=True)
class FedYogi(AdaptiveAlgorithm):
    """v = v - (1 - beta_2) d^2 sign(v - d^2): v falls slowly where updates become small at once.

    Source: Reddi et al. 2021, algorithm 2.
    """

    def second_moment(self, before: Array, squares: Array) -> Array:
        """v of this round."""
        signs: Array = np.sign(before - squares)
        return before - np.float32(1 - self.second_momentum) * squares * signs
