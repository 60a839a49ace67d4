"""The coordinate-wise trimmed mean."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg_core.federation.algorithms.base import Array
from medseg_core.federation.algorithms.collecting import BoundedAlgorithm, Collection, Rows


@dataclass(frozen=True)
class TrimmedMean(BoundedAlgorithm):
    """Of each number the mean over the sites without the f largest and the f smallest; sites weigh the same.

    Source: Yin et al. 2018, option II, with beta = f / n.
    """

    def fewest_for(self, hostile_sites: int) -> int:
        """2 f + 1: one must be left."""
        return 2 * hostile_sites + 1

    def combined(self, collection: Collection) -> tuple[dict[str, Array], Mapping[str, float]]:
        """The mean of what is left."""
        n_sites = len(collection.sites)
        f = self.borne_among(n_sites)

        def rule(rows: Rows) -> npt.NDArray[np.float64]:
            return np.asarray(np.sort(rows, axis=0)[f : n_sites - f].mean(axis=0, dtype=np.float64))

        return collection.combine(rule), {}
