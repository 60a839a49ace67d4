"""Ditto: beside the global model each site trains one of its own, held to the global one. The server does FedAvg."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.federation.algorithms.fedprox import Proximal
from medseg_core.federation.update import MODEL
from medseg_core.learning.local_rule import LocalRule, to_tensors
from medseg_core.learning.weights import Array, Kinds


@dataclass(frozen=True)
class Ditto(FedAvg):
    """A site's own model v minimises its loss + weight / 2 * |v - w|^2, w the global model that the round brings.

    v is the initial model before the site's first counted round; it is trained as long as the global model is.
    Source: Li et al. 2021c, algorithm 1.
    """

    weight: float = 0.1  # lambda

    @property
    def personalises(self) -> bool:
        """Each site has a model of its own."""
        return True

    def personal_rule(self, received: Kinds) -> LocalRule:
        """Pull towards the global model that came."""
        return HeldTo(self.weight, received[MODEL])


class HeldTo(Proximal):
    """The proximal term towards given weights, not towards those that training starts from."""

    def __init__(self, weight: float, centre: Mapping[str, Array]) -> None:
        super().__init__(weight)
        self._centre, self.is_sent = centre, False

    def begin(self, network: nn.Module) -> None:
        """Keep the centre on the network's device."""
        self._anchor = to_tensors(network, self._centre)
