"""The geometric median: the point with the smallest sum of distances to all updates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medseg_core.federation.algorithms.base import Array
from medseg_core.federation.algorithms.collecting import CollectingAlgorithm, Collection, by_site

STILL = 1e-9  # of each share: a step that changes none by more is the last
NEAR = 1e-6  # nu in Pillutla et al. 2022: distances below count as this


@dataclass(frozen=True)
class GeometricMedian(CollectingAlgorithm):
    """Smoothed Weiszfeld steps from the weighted mean: each site by its weight over its distance to the point so far.

    Distances are over the parameters; buffers are the median of each number. The point stays within the span of the
    updates, so that all distances follow from their scalar products.
    Source: Pillutla et al. 2022 ("Robust aggregation for federated learning"), algorithm 2.
    """

    iterations: int = 1000  # at most

    @property
    def fewest_sites(self) -> int:
        """With two, every point between them is one."""
        return 3

    def combined(self, collection: Collection) -> tuple[dict[str, Array], Mapping[str, float]]:
        """The mean with the weights that Weiszfeld's steps end with."""
        products, cases = collection.products(), collection.case_weights
        shares = cases / cases.sum()
        for _ in range(
            self.iterations
        ):  # a far update's share shrinks by a factor a step: many may be needed
            to_point = np.diag(products) - 2 * products @ shares + shares @ products @ shares
            pulls = cases / np.maximum(np.sqrt(np.maximum(to_point, 0.0)), NEAR)
            before, shares = shares, pulls / pulls.sum()
            if np.all(np.abs(shares - before) <= STILL * shares):
                break
        return collection.mean(shares), by_site(collection, shares)
