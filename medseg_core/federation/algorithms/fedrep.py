"""FedRep: the head stays at the site; it is trained first, then the shared rest."""

from dataclasses import dataclass

from torch import nn

from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.weights import Kinds, tensor_names


@dataclass(frozen=True)
class FedRep(FedAvg):
    """In each round `head_epochs` passes train the head alone, then [federation] local_epochs all but the head.

    The head is the last convolution, or block of them, that makes the maps of the classes.
    Source: Collins et al. 2021, algorithm 1.
    """

    head: str = ""  # name of the module in the network
    head_epochs: int = 1  # tau

    @property
    def personalises(self) -> bool:
        """Each site has a head of its own."""
        return True

    def local_names(self, network: nn.Module) -> frozenset[str]:
        """All tensors of the head."""
        return frozenset(name for name in tensor_names(network) if name.startswith(f"{self.head}."))

    def local_rule(self, received: Kinds, memory: Kinds) -> LocalRule:
        """The head, then the rest."""
        return HeadFirst(self.head, self.head_epochs)


class HeadFirst(LocalRule):
    """Parameters whose turn it is not lose their gradients: an optimiser passes those by, weight decay included."""

    def __init__(self, head: str, head_epochs: int) -> None:
        super().__init__()
        self._head, self.extra_passes = head, head_epochs
        self._is_at_head = True

    def begin_pass(self, number: int) -> None:
        """The first passes are the head's."""
        self._is_at_head = number < self.extra_passes

    def adjust_gradients(self, network: nn.Module) -> None:
        """Keep the gradients of one part."""
        for name, parameter in network.named_parameters():
            if name.startswith(f"{self._head}.") != self._is_at_head:
                parameter.grad = None
