"""The contract of an aggregation algorithm: `init`, then each round `start`, `add` each update, `finish`.

The server state is immutable; a round turns one into the next. One update is in memory at a time: rules that need all
of a round at once say so by `CollectingAlgorithm`, and have them on disk.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from medseg_core.federation.exact_sum import ExactSum
from medseg_core.federation.update import (
    DELTA,
    ClientUpdate,
    ModelSpec,
    Role,
    Tensors,
    check_update,
    refused,
    spec_for,
    sums_of_squares,
)
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.weights import Kinds

Upload = Literal["delta", "control"]  # kinds of tensors that a site may be asked for
Array = npt.NDArray[np.float32]
Figures = dict[str, float]


@dataclass(frozen=True)
class ServerState:
    """All that the next round needs. Arrays are read-only.

    `memory` holds the algorithm's own tensors by kind, such as `momentum`. `counted` names, for each site,
    the round and attempt of its last update that entered the weights.
    """

    weights: Tensors
    memory: Mapping[str, Tensors] = field(default_factory=dict)
    round: int = 0
    counted: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Accumulator:
    """A round in progress: the sums so far, by kind of upload, and whose updates are in them.

    `share` of all sites' weight belongs to those that contribute to this round. `sites` are those added, with their
    weights; `figures` what the algorithm noted of each, added up in the order of names. `reference` is the server's own
    update of this round, where the algorithm wants one.
    """

    spec: ModelSpec
    sums: dict[str, ExactSum]
    round: int = 1
    share: float = 1.0
    sites: dict[str, int] = field(default_factory=dict)
    figures: dict[str, tuple[float, ...]] = field(default_factory=dict)
    reference: Tensors = field(default_factory=dict)

    def discard(self) -> None:
        """The round came to nothing."""

    def weighted_mean(self, place: int) -> float:
        """Over the sites, of one of the figures noted of each; independent of the order of arrival."""
        total = sum(self.sites.values())
        return math.fsum(self.sites[site] * figures[place] for site, figures in self.figures.items()) / total


@dataclass(frozen=True)
class Means:
    """What the sites' updates come to: the parameters' mean update, means of further kinds, whose they are."""

    updates: Tensors
    others: Mapping[str, Tensors]
    accumulator: Accumulator


@dataclass(frozen=True)
class Algorithm:
    """FedAvg's skeleton: sum updates by weight, let the server take a step with their mean.

    An algorithm overrides what it does otherwise: `weighed`, the update as it enters the sum; `step`, what the server
    does with the mean; `local_rule`, what sites do besides. Buffers are averaged and never pass the server's optimiser.
    """

    @property
    def uploads(self) -> tuple[Upload, ...]:
        """The tensors that may leave a site under this algorithm, and no others."""
        return ("delta",)

    @property
    def fewest_sites(self) -> int:
        """Updates without which a round says nothing that the rule could stand for."""
        return 1

    def fewest_left(self, n_refused: int) -> int:
        """The same in a round in which so many updates were refused for what was in them."""
        return self.fewest_sites

    @property
    def remembers(self) -> bool:
        """Whether a site keeps something from its last counted round besides its optimiser's memory."""
        return False

    @property
    def personalises(self) -> bool:
        """Whether each site is scored with tensors of its own: those of its last counted round, kind `personal`."""
        return False

    @property
    def downloads(self) -> tuple[str, ...]:
        """Kinds of the server's memory that go to the sites beside the model, to train with."""
        return ()

    @property
    def wants_reference(self) -> bool:
        """Whether the server trains on its own cases each round, for the rule to compare with."""
        return False

    def local_rule(self, received: Kinds, memory: Kinds) -> LocalRule:
        """What a site does besides plain training: with what came, and what it kept from its last counted round."""
        return LocalRule()

    def local_names(self, network: nn.Module) -> frozenset[str]:
        """The network's tensors that never leave a site nor come to it: it has its own of them."""
        return frozenset()

    def personal_rule(self, received: Kinds) -> LocalRule | None:
        """How a site trains a whole model of its own beside the global one; None: it has none."""
        return None

    def init(self, weights: Tensors, spec: ModelSpec) -> ServerState:
        """The state of round 0. Raises UpdateError where weights and specification differ."""
        check_update(weights, spec, max_norm=None)
        return ServerState(frozen({name: array.copy() for name, array in weights.items()}))

    def start(self, state: ServerState, spec: ModelSpec) -> Accumulator:
        """An empty accumulator for the round after `state`."""
        assert state.weights.keys() == spec.tensors.keys()
        sums: dict[str, ExactSum] = {kind: ExactSum(spec_for(kind, spec)) for kind in self.uploads}
        return Accumulator(spec, sums, round=state.round + 1)

    def add(self, accumulator: Accumulator, update: ClientUpdate, weight: int) -> None:
        """Add one checked update. Raises UpdateError and leaves the accumulator as it was."""
        refuse_repeated(accumulator, update)
        tensors, figures = self.weighed(update, accumulator)
        sums = accumulator.sums
        largest = {kind: total.require_room(tensors[kind], weight) for kind, total in sums.items()}
        for kind, total in sums.items():
            total.add_fitting(tensors[kind], weight, largest[kind])
        note_site(accumulator, update.site, weight, figures)

    def finish(
        self, accumulator: Accumulator, state: ServerState, *, counted: Mapping[str, tuple[int, int]]
    ) -> tuple[ServerState, Figures]:
        """The next state, and figures for the record. `counted`: (round, attempt) of each added site."""
        assert counted.keys() == accumulator.sites.keys()
        means = {kind: total.mean() for kind, total in accumulator.sums.items()}
        return self.moved(means, accumulator, state, counted=counted)

    def weighed(
        self,
        update: ClientUpdate,
        accumulator: Accumulator,
    ) -> tuple[Mapping[str, Tensors], tuple[float, ...]]:
        """An update's tensors as they enter the sums, by kind, and figures to note of it. Raises UpdateError."""
        return {DELTA: update.delta, **update.others}, ()

    def step(self, means: Means, state: ServerState) -> tuple[dict[str, Array], dict[str, Tensors]]:
        """By how much each parameter moves, given the mean of its updates; and the memory for the next round."""
        raise NotImplementedError

    def moved(
        self,
        means: Mapping[str, Tensors],
        accumulator: Accumulator,
        state: ServerState,
        *,
        counted: Mapping[str, tuple[int, int]],
    ) -> tuple[ServerState, Figures]:
        """The state after the server's step; `mean_update_norm` and `step_norm` are L2 norms over the parameters."""
        mean = means[DELTA]
        updates = of_role(mean, accumulator.spec, "parameter")
        steps, memory = self.step(Means(updates, means, accumulator), state)
        weights = {
            name: np.asarray(weight + steps.get(name, mean[name])) for name, weight in state.weights.items()
        }
        new_state = ServerState(
            weights=frozen(weights),
            memory={kind: frozen(tensors) for kind, tensors in memory.items()},
            round=state.round + 1,
            counted={**state.counted, **counted},
        )
        return new_state, {"mean_update_norm": norm_of(updates), "step_norm": norm_of(steps)}


def refuse_repeated(accumulator: Accumulator, update: ClientUpdate) -> None:
    """Each site counts once a round. Raises UpdateError."""
    if update.site in accumulator.sites:
        raise refused("repeated_site", f"site {update.site} is already in this round")


def note_site(accumulator: Accumulator, site: str, weight: int, figures: tuple[float, ...] = ()) -> None:
    """A site's update is in: its weight, and what is noted of it."""
    accumulator.sites[site] = weight
    accumulator.figures[site] = figures


def of_role(tensors: Tensors, spec: ModelSpec, role: Role) -> dict[str, Array]:
    """The tensors that are parameters, or those that are buffers."""
    return {name: tensor for name, tensor in tensors.items() if spec.tensors[name].role == role}


def times_parameters(factor: float, tensors: Tensors, spec: ModelSpec) -> dict[str, Array]:
    """The tensors with the parameters among them scaled."""
    scaled = {name: np.float32(factor) * t for name, t in of_role(tensors, spec, "parameter").items()}
    return {**tensors, **scaled}


def zeros(spec: ModelSpec) -> dict[str, Array]:
    """A zero for each parameter."""
    return {name: np.zeros(t.shape, np.float32) for name, t in spec.tensors.items() if t.role == "parameter"}


def frozen(tensors: Tensors) -> Tensors:
    """The same arrays, from now on read-only, in sorted order; a number, as sums without axes are, becomes one."""
    arrays = {name: np.asarray(tensor) for name, tensor in sorted(tensors.items())}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def norm_of(tensors: Tensors) -> float:
    """L2 norm over all tensors."""
    return math.sqrt(math.fsum(sums_of_squares(tensors).values()))
