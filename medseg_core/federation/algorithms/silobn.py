"""SiloBN: the running statistics of batch normalisation stay at the site, all else is averaged."""

from dataclasses import dataclass

from torch import nn

from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.federation.algorithms.fedbn import running_statistics


@dataclass(frozen=True)
class SiloBN(FedAvg):
    """Running means and variances are each site's own; scale and shift are shared. Source: Andreux et al. 2020."""

    @property
    def personalises(self) -> bool:
        """Each site has statistics of its own."""
        return True

    def local_names(self, network: nn.Module) -> frozenset[str]:
        """Running statistics of batch normalisation."""
        return running_statistics(network)
