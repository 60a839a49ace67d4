"""Krum: the update, or the mean of the updates, that most others are close to."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg_core.federation.algorithms.base import Array
from medseg_core.federation.algorithms.collecting import (
    BoundedAlgorithm,
    Collection,
    by_site,
    squared_distances,
)


@dataclass(frozen=True)
class Krum(BoundedAlgorithm):
    """The one update with the smallest sum of squared distances to its n - f - 2 nearest.

    Distances are over the parameters; of equals the first by name. Buffers are the median of each number over all
    sites. Source: Blanchard et al. 2017, section 4.
    """

    def fewest_for(self, hostile_sites: int) -> int:
        """2 f + 3, as the proof needs."""
        return 2 * hostile_sites + 3

    def combined(self, collection: Collection) -> tuple[dict[str, Array], Mapping[str, float]]:
        """The mean of the chosen updates, which weigh the same."""
        n_sites = len(collection.sites)
        weights, f = np.zeros(n_sites), self.borne_among(n_sites)
        scores = krum_scores(squared_distances(collection.products()), f)
        weights[np.argsort(scores, kind="stable")[: self.n_chosen(n_sites, f)]] = 1.0
        return collection.mean(weights), by_site(collection, weights)

    def n_chosen(self, n_sites: int, hostile_sites: int) -> int:
        """How many updates are averaged."""
        return 1


@dataclass(frozen=True)
class MultiKrum(Krum):
    """The mean of the n - f updates with the best scores. Source: Blanchard et al. 2017, section 4 ("m-Krum")."""

    def n_chosen(self, n_sites: int, hostile_sites: int) -> int:
        """All but the hostile ones."""
        return n_sites - hostile_sites


def krum_scores(squared: npt.NDArray[np.float64], hostile_sites: int) -> npt.NDArray[np.float64]:
    """For each site the sum of the squared distances to its n - f - 2 nearest others; `squared` is (n, n)."""
    n_sites = len(squared)
    others = np.sort(squared + np.diag(np.full(n_sites, np.inf)), axis=1)
    return np.asarray(others[:, : n_sites - hostile_sites - 2].sum(axis=1))
