"""q-FedAvg: sites with a high loss weigh more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medseg_core.federation.algorithms.base import (
    Algorithm,
    Array,
    Means,
    ServerState,
    norm_of,
    of_role,
    times_parameters,
)
from medseg_core.federation.update import ClientUpdate, ModelSpec, Tensors, refused


@dataclass(frozen=True)
class QFedAvg(Algorithm):
    """w = w + sum(p_i F_i^q d_i) / sum(p_i (q F_i^(q - 1) L |d_i|^2 + F_i^q)) with L = 1 / learning rate.

    F_i is the mean loss that a site tells of its training in the round (in the paper: of the model before it, which
    would cost another pass). Buffers are averaged.

    Source: Li et al. 2020b ("Fair resource allocation in federated learning"), algorithm 2.
    """

    fairness: float = 1.0  # q
    learning_rate: float = 1.0  # of the sites' SGD

    def weighed(
        self, update: ClientUpdate, spec: ModelSpec
    ) -> tuple[Mapping[str, Tensors], tuple[float, ...]]:
        """F^q d. Raises UpdateError: a site keeps its loss (missing_figure), or tells one too large."""
        if update.loss is None or update.loss <= 0:
            raise refused("missing_figure", f"site {update.site} tells no loss to weigh it by")
        q, loss = self.fairness, update.loss
        squared_norm = norm_of(of_role(update.delta, spec, "parameter")) ** 2
        try:
            power = loss**q
            slope = q * loss ** (q - 1) * squared_norm / self.learning_rate
        except OverflowError:
            power = slope = math.inf
        if not math.isfinite(slope + power):
            raise refused("overflow", f"site {update.site} tells a loss of {loss:.6g}, too large to weigh by")
        return {"delta": times_parameters(power, update.delta, spec)}, (slope + power,)

    def step(self, means: Means, state: ServerState) -> tuple[dict[str, Array], dict[str, Tensors]]:
        """The mean over that of the slopes."""
        slope = np.float32(means.accumulator.weighted_mean(0))
        return {name: d / slope for name, d in means.updates.items()}, {}
