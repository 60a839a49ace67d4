"""The contract of an aggregation algorithm: `init`, then each round `start`, `add` each update, `finish`.

The server state is immutable; a round turns one into the next. One update is in memory at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from medseg_core.federation.exact_sum import ExactSum
from medseg_core.federation.update import ClientUpdate, ModelSpec, Role, Tensors, refused

Upload = Literal["delta"]  # kinds of tensors that a site may be asked for


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
    """A round in progress: the sum so far and whose updates are in it."""

    spec: ModelSpec
    sum: ExactSum
    sites: set[str]


@runtime_checkable
class Algorithm(Protocol):
    """How client updates change the global model."""

    @property
    def uploads(self) -> frozenset[Upload]:
        """The tensors that may leave a site under this algorithm, and no others."""
        ...

    def init(self, weights: Tensors, spec: ModelSpec) -> ServerState:
        """The state of round 0. Raises UpdateError where weights and specification differ."""
        ...

    def start(self, state: ServerState, spec: ModelSpec) -> Accumulator:
        """An empty accumulator for the round after `state`."""
        ...

    def add(self, accumulator: Accumulator, update: ClientUpdate, weight: int) -> None:
        """Add one checked update. Raises UpdateError and leaves the accumulator as it was."""
        ...

    def finish(
        self, accumulator: Accumulator, state: ServerState, *, counted: Mapping[str, tuple[int, int]]
    ) -> tuple[ServerState, dict[str, float]]:
        """The next state, and figures for the record. `counted`: (round, attempt) of each added site."""
        ...


def start_sum(spec: ModelSpec) -> Accumulator:
    """An accumulator for algorithms that need the weighted mean alone."""
    return Accumulator(spec, ExactSum(spec), set())


def add_to_sum(accumulator: Accumulator, update: ClientUpdate, weight: int) -> None:
    """Add an update to the weighted mean, each site once. Raises UpdateError."""
    if update.site in accumulator.sites:
        raise refused("repeated_site", f"site {update.site} is already in this round")
    accumulator.sum.add(update.delta, weight)
    accumulator.sites.add(update.site)


def of_role(tensors: Tensors, spec: ModelSpec, role: Role) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors that are parameters, or those that are buffers."""
    return {name: tensor for name, tensor in tensors.items() if spec.tensors[name].role == role}


def frozen(tensors: Tensors) -> Tensors:
    """The same arrays, from now on read-only, in sorted order."""
    for tensor in tensors.values():
        tensor.flags.writeable = False
    return dict(sorted(tensors.items()))
