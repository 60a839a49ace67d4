"""For rules that need all updates of a round at once: they wait on disk, and are read a block of numbers at a time."""

import itertools
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg_core.federation.algorithms.base import (
    Accumulator,
    Array,
    Figures,
    ServerState,
    note_site,
    refuse_repeated,
)
from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.federation.update import ClientUpdate, ModelSpec, check_names_and_shapes

BLOCK = 1 << 18  # numbers of each site in memory at a time: 16 sites are 16 MiB
Rows = npt.NDArray[np.float32]  # (sites, numbers), sites in the order of their names
Rule = Callable[[Rows], npt.NDArray[np.floating]]  # (sites, numbers) -> (numbers,)


@dataclass
class Collection(Accumulator):
    """The updates so far, each a file of float32: parameters first, then buffers."""

    folder: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)

    def discard(self) -> None:
        """Remove the files."""
        self.folder.cleanup()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors, in the order of the file."""
        by_role = sorted(self.spec.tensors.items(), key=lambda item: (item[1].role != "parameter", item[0]))
        return tuple(name for name, _ in by_role)

    def write(self, site: str, delta: Mapping[str, Array]) -> None:
        """Put an update aside."""
        with self._file(site).open("wb") as file:
            for name in self.names:
                file.write(np.ascontiguousarray(delta[name], "<f4").tobytes())

    def blocks(self) -> Iterator[tuple[int, Rows]]:
        """All updates, a block of numbers after the other, each with the place of its first number.

        A block holds numbers of parameters or of buffers.
        """
        rows = [np.memmap(self._file(site), "<f4", "r") for site in sorted(self.sites)]
        n_parameters, n_numbers = self.spec.n_parameters, len(rows[0])
        starts = (*range(0, n_parameters, BLOCK), *range(n_parameters, n_numbers, BLOCK))
        for at, end in itertools.pairwise((*starts, n_numbers)):
            yield at, np.stack([row[at:end] for row in rows])

    def combine(self, rule: Rule, *, of_buffers: Rule | None = None) -> dict[str, Array]:
        """The tensors whose numbers are the rule of all sites' numbers, those of buffers by a rule of their own."""
        flat = np.empty(self.spec.n_bytes // 4, np.float32)
        for at, rows in self.blocks():
            is_buffer = at >= self.spec.n_parameters
            flat[at : at + rows.shape[1]] = (of_buffers if is_buffer and of_buffers else rule)(rows)
        tensors, at = {}, 0
        for name in self.names:
            shape = self.spec.tensors[name].shape
            size = int(np.prod(shape))
            tensors[name] = flat[at : at + size].reshape(shape).copy()
            at += size
        return tensors

    def sum(self, shares: npt.NDArray[np.float64]) -> dict[str, Array]:
        """The parameters' sum, each site times its share, in the order of names; of each number of buffers the median.

        For a rule that judges a site by its parameters: whatever buffers come with good ones, they are not believed.
        """
        return self.combine(lambda rows: weighted(shares, rows), of_buffers=median_of)

    def mean(self, weights: npt.ArrayLike) -> dict[str, Array]:
        """The same with weights as they are, in float64."""
        shares = np.asarray(weights, np.float64)
        return self.sum(shares / shares.sum())

    def products(self) -> npt.NDArray[np.float64]:
        """Scalar products of the sites' parameters with each other, (sites, sites)."""
        products = np.zeros((len(self.sites), len(self.sites)))
        for at, rows in self.blocks():
            if at < self.spec.n_parameters:
                parameters = rows.astype(np.float64)
                products += np.einsum("in,jn->ij", parameters, parameters)
        return products

    @property
    def case_weights(self) -> npt.NDArray[np.float64]:
        """The sites' weights, in the order of names."""
        return np.array([self.sites[site] for site in sorted(self.sites)], np.float64)

    def _file(self, site: str) -> Path:
        return Path(self.folder.name) / f"{site}.f32"


@dataclass(frozen=True)
class CollectingAlgorithm(FedAvg):
    """FedAvg with another rule in the mean's place."""

    def start(self, state: ServerState, spec: ModelSpec) -> Collection:
        """No update yet."""
        assert state.weights.keys() == spec.tensors.keys()
        return Collection(spec, {})

    def add(self, accumulator: Accumulator, update: ClientUpdate, weight: int) -> None:
        """Put one checked update aside. Raises UpdateError and leaves the accumulator as it was."""
        assert isinstance(accumulator, Collection)
        refuse_repeated(accumulator, update)
        check_names_and_shapes(update.delta, accumulator.spec)
        accumulator.write(update.site, update.delta)
        note_site(accumulator, update.site, weight)

    def finish(
        self, accumulator: Accumulator, state: ServerState, *, counted: Mapping[str, tuple[int, int]]
    ) -> tuple[ServerState, Figures]:
        """The next state; `weight_SITE` is what the rule made of each site, where it weighs whole sites."""
        assert isinstance(accumulator, Collection)
        assert counted.keys() == accumulator.sites.keys()
        with accumulator.folder:
            combined, weights = self.combined(accumulator)
        new_state, figures = self.moved({"delta": combined}, accumulator, state, counted=counted)
        return new_state, figures | {f"weight_{site}": weight for site, weight in weights.items()}

    @abstractmethod
    def combined(self, collection: Collection) -> tuple[dict[str, Array], Mapping[str, float]]:
        """The rule's update, and the share that each site has in it; no share where numbers are chosen one by one."""


@dataclass(frozen=True)
class BoundedAlgorithm(CollectingAlgorithm):
    """A rule that bears f hostile sites among as many as its bound says.

    A site whose update was refused for what was in it is one of the f: its numbers are infinitely far from all others,
    and no rule would take them. Of f as many are then borne as those that are left allow.
    """

    hostile_sites: int = 1  # f

    @abstractmethod
    def fewest_for(self, hostile_sites: int) -> int:
        """Among how many sites it bears so many; also none."""

    @property
    def fewest_sites(self) -> int:
        """By the bound."""
        return self.fewest_for(self.hostile_sites)

    def fewest_left(self, n_refused: int) -> int:
        """By the bound for those of f that were not refused."""
        return self.fewest_for(max(0, self.hostile_sites - n_refused))

    def finish(
        self, accumulator: Accumulator, state: ServerState, *, counted: Mapping[str, tuple[int, int]]
    ) -> tuple[ServerState, Figures]:
        """As without a bound; `hostile_sites_borne` is how many of those that are left could be."""
        new_state, figures = super().finish(accumulator, state, counted=counted)
        return new_state, figures | {"hostile_sites_borne": float(self.borne_among(len(accumulator.sites)))}

    def borne_among(self, n_sites: int) -> int:
        """f, or as much of it as that many sites bear."""
        return max(f for f in range(self.hostile_sites + 1) if self.fewest_for(f) <= n_sites)


def weighted(shares: npt.NDArray[np.float64], rows: Rows) -> npt.NDArray[np.float64]:
    """The sum of the rows times their shares. Not by BLAS: its sums depend on the number of cores."""
    return np.asarray(np.einsum("i,in->n", shares, rows.astype(np.float64)))


def median_of(rows: Rows) -> npt.NDArray[np.floating]:
    """Of each number the median over the sites."""
    return np.asarray(np.median(rows, axis=0))


def by_site(collection: Collection, weights: npt.NDArray[np.float64]) -> dict[str, float]:
    """Weights in the order of names, as shares by name."""
    return dict(zip(sorted(collection.sites), (weights / weights.sum()).tolist(), strict=True))


def squared_distances(products: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Between the sites' parameters, from their scalar products."""
    squares = np.diag(products)
    return np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)
