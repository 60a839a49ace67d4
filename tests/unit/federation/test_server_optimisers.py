"""Server optimisers on hand-made sites: one round and the next, by hand, as Reddi et al. 2021 write them."""

import math

import numpy as np
import pytest
from builders import make_experiment
from playing import SPEC, START, play, update

from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.algorithms.adaptive import AdaptiveAlgorithm
from medseg_core.federation.algorithms.fedadagrad import FedAdagrad
from medseg_core.federation.algorithms.fedadam import FedAdam
from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.federation.algorithms.fedyogi import FedYogi

TAU = 0.1


def by_hand(v_of: object, momentum: float, d: tuple[float, ...]) -> list[float]:
    """The weight after each update d, from 1.0, with eta 0.5."""
    w, m, v, after = 1.0, 0.0, TAU**2, []
    for one in d:
        m = momentum * m + (1 - momentum) * one
        v = v_of(v, one)  # type: ignore[operator]
        w += 0.5 * m / (math.sqrt(v) + TAU)
        after.append(w)
    return after


@pytest.mark.parametrize(
    ("algorithm", "v_of"),
    [
        (FedAdagrad(0.5, 0.0, 0.0, TAU), lambda v, d: v + d * d),
        (FedAdam(0.5, 0.9, 0.99, TAU), lambda v, d: 0.99 * v + 0.01 * d * d),
        (FedYogi(0.5, 0.9, 0.99, TAU), lambda v, d: v - 0.01 * d * d * (1 if v > d * d else -1)),
    ],
    ids=["fedadagrad", "fedadam", "fedyogi"],
)
def test_two_rounds_are_those_by_hand(algorithm: AdaptiveAlgorithm, v_of: object) -> None:
    state, found = algorithm.init(START, SPEC), []
    for d in (0.4, -0.02):
        state = play(
            algorithm,
            state,
            (update("north", (d + 0.1, 0.0), 2.0), 1),
            (update("south", (d - 0.1, 0.0), 2.0), 1),
        )
        found.append(float(state.weights["w"][0]))
    np.testing.assert_allclose(found, by_hand(v_of, algorithm.momentum, (0.4, -0.02)), rtol=1e-6)
    assert state.weights["w"][1] == START["w"][1]  # no update, no step
    assert state.weights["running_mean"].tolist() == [14.0]  # averaged only
    assert state.memory.keys() == {"momentum", "second_moment"}
    assert state.memory["second_moment"].keys() == {"w"}


def test_the_experiment_names_them_with_the_papers_defaults() -> None:
    named = {
        n: build_algorithm(make_experiment(federation={"algorithm": n}))
        for n in ("fedadagrad", "fedadam", "fedyogi")
    }
    assert named == {
        "fedadagrad": FedAdagrad(0.01, 0.0, 0.0, 1e-3),
        "fedadam": FedAdam(0.01, 0.9, 0.99, 1e-3),
        "fedyogi": FedYogi(0.01, 0.9, 0.99, 1e-3),
    }


@pytest.mark.parametrize(("given", "used"), [(0.0, 0.9), (0.3, 0.3)])
def test_fedavgm_is_fedavg_with_momentum(given: float, used: float) -> None:
    experiment = make_experiment(federation={"algorithm": "fedavgm", "server_momentum": given})
    assert build_algorithm(experiment) == FedAvg(used, 1.0)
