"""The coordinate-wise trimmed mean."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medseg_core.federation.algorithms.base import Array
from medseg_core.federation.algorithms.collecting import CollectingAlgorithm, Collection


@dataclass(frozen=True)
class TrimmedMean(CollectingAlgorithm):
    """Of each number the mean over the sites without the f largest and the f smallest; sites weigh the same.

    Source: Yin et al. 2018, option II, with beta = f / n.
    """

    hostile_sites: int = 1  # f

    @property
    def fewest_sites(self) -> int:
        """One must be left."""
        return 2 * self.hostile_sites + 1

    def combined(self, collection: Collection) -> tuple[dict[str, Array], Mapping[str, float]]:
        """The mean of what is left."""
        f = self.hostile_sites
        return collection.combine(lambda rows: np.sort(rows, axis=0)[f:-f].mean(axis=0, dtype=np.float64)), {}
