"""FedBN: batch normalisation stays at the site, all else is averaged."""

from dataclasses import dataclass

from torch import nn

from medseg_core.federation.algorithms.fedavg import FedAvg

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class FedBN(FedAvg):
    """Scale, shift and running statistics of every batch normalisation are each site's own.

    Source: Li et al. 2021b, algorithm 1.
    """

    @property
    def personalises(self) -> bool:
        """Each site has normalisations of its own."""
        return True

    def local_names(self, network: nn.Module) -> frozenset[str]:
        """Parameters and running statistics of batch normalisation."""
        return running_statistics(network) | scales_and_shifts(network)


def running_statistics(network: nn.Module) -> frozenset[str]:
    """Names of the running means and variances of batch normalisation."""
    return frozenset(
        f"{name}.{kind}"
        for name, module in network.named_modules()
        if isinstance(module, BATCH_NORMS)
        for kind, buffer in module.named_buffers()
        if buffer.is_floating_point()
    )


def scales_and_shifts(network: nn.Module) -> frozenset[str]:
    """Names of the trained parameters of batch normalisation."""
    return frozenset(
        f"{name}.{kind}"
        for name, module in network.named_modules()
        if isinstance(module, BATCH_NORMS)
        for kind, _ in module.named_parameters()
    )
