"""FedNova: sites that take more steps do not pull harder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg_core.federation.algorithms.base import (
    Accumulator,
    Array,
    Means,
    ServerState,
    times_parameters,
)
from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.federation.update import ClientUpdate, Tensors, refused
from medseg_core.learning.local_rule import pull

# round, number of steps -> the learning rate of each, as a part of the first of all
Rates = Callable[[int, int], Sequence[float]]


@dataclass(frozen=True)
class FedNova(FedAvg):
    """d = tau * sum(p_i d_i / a_i) with tau = sum(p_i a_i): the mean of updates a step, times the mean of steps.

    a_i is what a site's optimiser makes of its K steps: K for plain SGD, more with momentum, less where the learning
    rate falls within the round. It follows from the number of steps, which sites tell. Buffers are averaged.

    Source: Wang et al. 2020, equations 7 and 15; with server momentum as in its section 5.
    """

    momentum: float = 0.0  # of the sites' SGD
    rates: Rates = lambda _, n_steps: [1.0] * n_steps

    def weighed(
        self, update: ClientUpdate, accumulator: Accumulator
    ) -> tuple[Mapping[str, Tensors], tuple[float, ...]]:
        """d_i / a_i. Raises UpdateError (bad_count) where a site tells of no step."""
        if update.n_steps < 1:
            raise refused("bad_count", f"site {update.site} tells of {update.n_steps} steps")
        a = pull(self.rates(accumulator.round, update.n_steps), self.momentum)
        return {"delta": times_parameters(1 / a, update.delta, accumulator.spec)}, (a,)

    def step(self, means: Means, state: ServerState) -> tuple[dict[str, Array], dict[str, Tensors]]:
        """FedAvg's step with tau times the mean."""
        tau = np.float32(means.accumulator.weighted_mean(0))
        return super().step(
            replace(means, updates={name: tau * d for name, d in means.updates.items()}), state
        )
