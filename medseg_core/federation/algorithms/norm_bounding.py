"""Norm bounding: no update is longer than a bound."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medseg_core.federation.algorithms.base import Array
from medseg_core.federation.algorithms.collecting import CollectingAlgorithm, Collection


@dataclass(frozen=True)
class NormBounding(CollectingAlgorithm):
    """The weighted mean of the updates, each scaled down to the bound where its parameters' L2 norm is above.

    Without a bound it is the median of the round's norms. Buffers are the median of each number.
    Source: Sun et al. 2019, section 4 (no noise is added).
    """

    norm_bound: float | None = None

    @property
    def fewest_sites(self) -> int:
        """The median norm of two is no bound: a long update draws it up."""
        return 1 if self.norm_bound is not None else 3

    def combined(self, collection: Collection) -> tuple[dict[str, Array], Mapping[str, float]]:
        """The mean of the scaled updates; the share of a site is its weight times its scale."""
        norms = np.sqrt(np.diag(collection.products()))
        bound = np.median(norms) if self.norm_bound is None else self.norm_bound
        scales = np.minimum(1.0, bound / np.maximum(norms, np.finfo(np.float64).tiny))
        shares = scales * collection.case_weights / collection.case_weights.sum()
        return collection.sum(shares), dict(zip(sorted(collection.sites), shares.tolist(), strict=True))
