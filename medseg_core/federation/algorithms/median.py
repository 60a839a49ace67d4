"""The coordinate-wise median."""

from collections.abc import Mapping
from dataclasses import dataclass

from medseg_core.federation.algorithms.base import Array
from medseg_core.federation.algorithms.collecting import CollectingAlgorithm, Collection, median_of


@dataclass(frozen=True)
class Median(CollectingAlgorithm):
    """Of each number the median over the sites, which all weigh the same. Source: Yin et al. 2018, option I."""

    @property
    def fewest_sites(self) -> int:
        """The median of two is their mean."""
        return 3

    def combined(self, collection: Collection) -> tuple[dict[str, Array], Mapping[str, float]]:
        """The median of each number."""
        return collection.combine(median_of), {}
