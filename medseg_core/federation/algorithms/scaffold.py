"""SCAFFOLD: control variates, the server's and one a site, take the drift out of local gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from medseg_core.federation.algorithms.base import Algorithm, Array, Means, ServerState, Upload, zeros
from medseg_core.federation.update import ModelSpec, Tensors
from medseg_core.learning.local_rule import LocalRule, parameters_of, pull, to_tensors, to_weights
from medseg_core.learning.weights import Kinds


@dataclass(frozen=True)
class Scaffold(Algorithm):
    """Sites step by g - c_i + c; then c_i' = c_i - c + (global - local) / (K * rate), c = c + share * mean(c_i' - c_i).

    The means are weighted like those of the model, so that c is the gradient of the loss that is minimised (in the
    paper all weigh the same). K * rate is what the optimiser's steps would add up to for a constant gradient: with a
    schedule and Nesterov momentum too.

    Source: Karimireddy et al. 2020, algorithm 1, option II.
    """

    server_learning_rate: float = 1.0  # eta_g

    @property
    def uploads(self) -> tuple[Upload, ...]:
        """The update, and by how much the site's control variate changed."""
        return ("delta", "control")

    @property
    def downloads(self) -> tuple[str, ...]:
        """The server's control variate."""
        return ("control",)

    @property
    def remembers(self) -> bool:
        """Its control variate."""
        return True

    def local_rule(self, received: Kinds, memory: Kinds) -> LocalRule:
        """Correct each gradient by the two control variates."""
        return Corrected(received["control"], memory.get("control"))

    def init(self, weights: Tensors, spec: ModelSpec) -> ServerState:
        """The state of round 0, its control variate zero. Raises UpdateError where weights and specification differ."""
        return ServerState(super().init(weights, spec).weights, {"control": zeros(spec)})

    def step(self, means: Means, state: ServerState) -> tuple[dict[str, Array], dict[str, Tensors]]:
        """eta_g * d; c moves by the share of all sites that contributed."""
        share, before = np.float32(means.accumulator.share), state.memory["control"]
        control = {name: before[name] + share * change for name, change in means.others["control"].items()}
        steps = {name: np.float32(self.server_learning_rate) * d for name, d in means.updates.items()}
        return steps, {"control": control}


class Corrected(LocalRule):
    """Gradients less the site's control variate, plus the server's."""

    def __init__(self, server: Mapping[str, Array], own: Mapping[str, Array] | None) -> None:
        super().__init__()
        self._given = dict(server), dict(own or {})
        self._start, self._server, self._own = list[Tensor](), list[Tensor](), list[Tensor]()

    def begin(self, network: nn.Module) -> None:
        """Keep the global model; the site's control variate is zero before its first counted round."""
        server, own = self._given
        self._start = parameters_of(network)
        self._server, self._own = to_tensors(network, server), to_tensors(network, own)

    def adjust_gradients(self, network: nn.Module) -> None:
        """g - c_i + c."""
        for parameter, server, own in zip(network.parameters(), self._server, self._own, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(server).sub_(own)

    def end(self, network: nn.Module, rates: Sequence[float], momentum: float) -> None:
        """c_i' is the mean gradient of this training, before the correction."""
        way = pull(rates, momentum)
        trained = (parameter.detach() for parameter in network.parameters())
        own = [
            before - server + (start - now) / way
            for before, server, start, now in zip(self._own, self._server, self._start, trained, strict=True)
        ]
        changes = [after - before for after, before in zip(own, self._own, strict=True)]
        self.uploads = {"control": to_weights(network, changes)}
        self.memory = {"control": to_weights(network, own)}
