"""FLTrust: the server trains on cases of its own, and believes a site as far as its update points the same way."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg_core.federation.algorithms.base import Array
from medseg_core.federation.algorithms.collecting import (
    CollectingAlgorithm,
    Collection,
    median_of,
    weighted,
)
from medseg_core.federation.update import Tensors

TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class FLTrust(CollectingAlgorithm):
    """The mean of the updates, each scaled to the norm of the server's own, weighted by trust: relu(cosine) with it.

    Cosine and norm are over the parameters. Buffers are the median of each number over all sites. Where no site is
    trusted the model stays as it is. Source: Cao et al. 2021, equations 2 to 4.
    """

    @property
    def wants_reference(self) -> bool:
        """The update that the server trained on its own cases."""
        return True

    def combined(self, collection: Collection) -> tuple[dict[str, Array], Mapping[str, float]]:
        """The mean of the scaled updates; the share of a site is its trust by the sum of all trust."""
        reference = _flat(collection.reference, collection)
        norms = np.sqrt(np.diag(collection.products()))
        own_norm = math.sqrt(np.einsum("n,n->", reference, reference))  # not by BLAS, as `weighted`
        cosines = _products_with(reference, collection) / np.maximum(norms * own_norm, TINY)
        trust = np.maximum(cosines, 0.0)
        shares = trust / max(trust.sum(), TINY)
        scaled = shares * own_norm / np.maximum(norms, TINY)
        is_any_trusted = bool(trust.any())
        combined = collection.combine(
            lambda rows: weighted(scaled, rows),
            of_buffers=lambda rows: median_of(rows) if is_any_trusted else np.zeros(rows.shape[1]),
        )
        return combined, dict(zip(sorted(collection.sites), shares.tolist(), strict=True))


def _flat(tensors: Tensors, collection: Collection) -> npt.NDArray[np.float64]:
    """The parameters as one row, in the order of the collection's files."""
    assert tensors, "the round loop gives the reference"
    rows = [
        tensors[n].reshape(-1) for n in collection.names if collection.spec.tensors[n].role == "parameter"
    ]
    return np.concatenate(rows).astype(np.float64)


def _products_with(reference: npt.NDArray[np.float64], collection: Collection) -> npt.NDArray[np.float64]:
    """Scalar product of each site's parameters with the reference, (sites,); not by BLAS, as `weighted`."""
    products = np.zeros(len(collection.sites))
    for at, rows in collection.blocks():
        if at < len(reference):
            own = reference[at : at + rows.shape[1]]
            products += np.einsum("in,n->i", rows.astype(np.float64), own)
    return products
