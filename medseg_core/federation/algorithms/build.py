"""From the name in the experiment to the algorithm."""

from medseg_core.config import Federation
from medseg_core.federation.algorithms.base import Algorithm
from medseg_core.federation.algorithms.fedavg import FedAvg


def build_algorithm(federation: Federation) -> Algorithm:
    """The aggregation that a [federation] section asks for."""
    match federation.algorithm:
        case "fedavg" | "fedprox":
            return FedAvg(federation.server_momentum, federation.server_learning_rate)
