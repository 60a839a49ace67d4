"""FedProx: sites are held to the global model while they train. On the server it is FedAvg."""

from dataclasses import dataclass

from torch import Tensor, nn

from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.learning.local_rule import LocalRule, parameters_of
from medseg_core.learning.weights import Kinds


@dataclass(frozen=True)
class FedProx(FedAvg):
    """Adds `proximal_weight / 2 * |w - global|^2` to the loss of each site. Source: Li et al. 2020, equation 2."""

    proximal_weight: float = 0.01  # mu

    def local_rule(self, received: Kinds, memory: Kinds) -> LocalRule:
        """Pull towards the global model."""
        return Proximal(self.proximal_weight)


class Proximal(LocalRule):
    """The gradient of the proximal term, added to that of the loss."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self._weight, self._anchor = weight, list[Tensor]()

    def begin(self, network: nn.Module) -> None:
        """Keep the global model."""
        self._anchor = parameters_of(network)

    def adjust_gradients(self, network: nn.Module) -> None:
        """gradient + weight * (w - global)."""
        if not self._weight:
            return
        for parameter, start in zip(network.parameters(), self._anchor, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self._weight)
