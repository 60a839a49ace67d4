"""FedAdagrad."""

from dataclasses import dataclass

from medseg_core.federation.algorithms.adaptive import AdaptiveAlgorithm
from medseg_core.federation.algorithms.base import Array


@dataclass(frozen=True)
class FedAdagrad(AdaptiveAlgorithm):
    """v = v + d^2: steps shrink for ever. Source: Reddi et al. 2021, algorithm 2."""

    def second_moment(self, before: Array, squares: Array) -> Array:
        """v of this round."""
        return before + squares
