"""q-FedAvg: sites with a high loss weigh more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medseg_core.errors import RunError
from medseg_core.federation.algorithms.base import (
    Accumulator,
    Algorithm,
    Array,
    Means,
    ServerState,
    norm_of,
    of_role,
    times_parameters,
)
from medseg_core.federation.update import ClientUpdate, Tensors, refused

SMALLEST, LARGEST = 2.0**-20, 2.0**100  # of F^q: the sum has steps of 2^-40, float32 ends at 2^128


@dataclass(frozen=True)
class QFedAvg(Algorithm):
    """w = w + sum(p_i F_i^q d_i) / sum(p_i (q F_i^(q - 1) L |d_i|^2 + F_i^q)) with L = 1 / learning rate.

    F_i is the mean loss that a site tells of its training in the round (in the paper: of the model before it, which
    would cost another pass). L is that of the first rate: neither the schedule nor momentum is in it. A site's loss is
    believed: one that tells a huge one stalls the rest. Buffers are averaged.

    Source: Li et al. 2020b ("Fair resource allocation in federated learning"), algorithm 2.
    """

    fairness: float = 1.0  # q
    learning_rate: float = 1.0  # of the sites' SGD

    def weighed(
        self, update: ClientUpdate, accumulator: Accumulator
    ) -> tuple[Mapping[str, Tensors], tuple[float, ...]]:
        """F^q d. Raises UpdateError: a site keeps its loss (missing_figure), or tells one too large."""
        if update.loss is None or update.loss <= 0:
            raise refused("missing_figure", f"site {update.site} tells no loss to weigh it by")
        q, loss = self.fairness, update.loss
        squared_norm = norm_of(of_role(update.delta, accumulator.spec, "parameter")) ** 2
        try:
            power = loss**q
            slope = q * loss ** (q - 1) * squared_norm / self.learning_rate
        except OverflowError:
            power = slope = math.inf
        if not slope + power < LARGEST:
            raise refused("overflow", f"site {update.site} tells a loss of {loss:.6g}, too large to weigh by")
        return {"delta": times_parameters(power, update.delta, accumulator.spec)}, (slope + power, power)

    def step(self, means: Means, state: ServerState) -> tuple[dict[str, Array], dict[str, Tensors]]:
        """The mean over that of the slopes. Raises RunError where F^q left nothing of the updates."""
        slope, power = (np.float32(means.accumulator.weighted_mean(place)) for place in (0, 1))
        if power < SMALLEST:
            raise RunError(
                f"round {state.round + 1}: [federation.qfedavg] fairness = {self.fairness:g} weighs updates by "
                f"{power:.2g}, of which the sum keeps too little: at least {SMALLEST:.2g} is needed. Lower fairness in "
                "a new run: losses below 1 to that power vanish."
            )
        return {name: d / slope for name, d in means.updates.items()}, {}
