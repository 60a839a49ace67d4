"""FedAvg on hand-made sites: exact numbers for the mean, for momentum, and for buffers."""

import itertools

import numpy as np
import pytest
from builders import make_experiment
from playing import SPEC, START, play, update

from medseg_core.errors import UpdateError
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.algorithms.fedavg import FedAvg

PLAIN = FedAvg()


def test_two_sites_average_by_weight() -> None:
    state = play(
        PLAIN,
        PLAIN.init(START, SPEC),
        (update("north", (1.0, 0.0), 4.0), 3),
        (update("south", (0.0, -2.0), 8.0), 1),
    )
    assert state.weights["w"].tolist() == [1.75, 1.5]  # 1 + 3/4, 2 - 2/4
    assert state.weights["running_mean"].tolist() == [15.0]  # 10 + (3 * 4 + 8) / 4
    assert state.round == 1


def test_one_site_ends_where_it_trained_to() -> None:
    local = np.array([0.9173, 2.2001], np.float32)
    state = play(PLAIN, PLAIN.init(START, SPEC), (update("only", tuple(map(float, local - START["w"]))), 1))
    np.testing.assert_allclose(state.weights["w"], local, rtol=2**-23)


def test_order_of_arrival_changes_no_bit_over_rounds() -> None:
    rng = np.random.default_rng(0)
    updates = [(update(f"site{i}", tuple(map(float, rng.standard_normal(2)))), i + 1) for i in range(4)]
    ends = set()
    for order in itertools.permutations(updates):
        algorithm = FedAvg(server_momentum=0.7, server_learning_rate=0.3)
        state = algorithm.init(START, SPEC)
        for _ in range(3):
            state = play(algorithm, state, *order)
        ends.add(state.weights["w"].tobytes() + state.memory["momentum"]["w"].tobytes())
    assert len(ends) == 1


def test_momentum_and_learning_rate_are_those_of_the_paper() -> None:
    algorithm = FedAvg(server_momentum=0.5, server_learning_rate=2.0)
    state = play(algorithm, algorithm.init(START, SPEC), (update("north", (1.0, 0.0), 2.0), 1))
    assert state.memory["momentum"]["w"].tolist() == [1.0, 0.0]  # v = d
    assert state.weights["w"].tolist() == [3.0, 2.0]  # w + 2 v
    state = play(algorithm, state, (update("north", (1.0, 1.0), 2.0), 1))
    assert state.memory["momentum"]["w"].tolist() == [1.5, 1.0]  # 0.5 v + d
    assert state.weights["w"].tolist() == [6.0, 4.0]


def test_buffers_are_averaged_and_never_pass_the_optimiser() -> None:
    algorithm = FedAvg(server_momentum=0.5, server_learning_rate=2.0)
    state = algorithm.init(START, SPEC)
    for _ in range(2):
        state = play(algorithm, state, (update("north", (1.0, 0.0), 2.0), 1))
    assert state.weights["running_mean"].tolist() == [14.0]
    assert state.memory["momentum"].keys() == {"w"}


def test_without_momentum_nothing_is_remembered() -> None:
    assert play(PLAIN, PLAIN.init(START, SPEC), (update("north", (1.0, 0.0)), 1)).memory == {}


def test_the_state_names_the_last_counted_attempt_of_each_site() -> None:
    state = play(PLAIN, PLAIN.init(START, SPEC), (update("north", (0, 0)), 1), (update("south", (0, 0)), 1))
    state = play(PLAIN, state, (update("south", (0, 0)), 1), attempt=3)
    assert state.counted == {"north": (1, 1), "south": (2, 3)}


def test_a_state_cannot_be_changed_and_earlier_ones_stay() -> None:
    mine = {name: array.copy() for name, array in START.items()}
    first = PLAIN.init(mine, SPEC)
    mine["w"][0] = 99.0
    second = play(PLAIN, first, (update("north", (1.0, 1.0)), 1))
    assert first.weights["w"].tolist() == [1.0, 2.0]
    for state in (first, second):
        with pytest.raises(ValueError, match="read-only"):
            state.weights["w"][0] = 0.0


def test_a_site_is_added_once_a_round_and_a_bad_update_not_at_all() -> None:
    state = PLAIN.init(START, SPEC)
    accumulator = PLAIN.start(state, SPEC)
    PLAIN.add(accumulator, update("north", (1.0, 1.0)), 1)
    with pytest.raises(UpdateError) as repeated:
        PLAIN.add(accumulator, update("north", (5.0, 5.0)), 1)
    with pytest.raises(UpdateError) as too_large:
        PLAIN.add(accumulator, update("south", (100.0, 0.0)), 1)
    assert (repeated.value.reason, too_large.value.reason) == ("repeated_site", "overflow")
    ended, _ = PLAIN.finish(accumulator, state, counted={"north": (1, 1)})
    assert ended.weights["w"].tolist() == [2.0, 3.0]
    assert ended.counted == {"north": (1, 1)}


def test_a_refused_site_may_try_again_in_the_same_round() -> None:
    accumulator = PLAIN.start(PLAIN.init(START, SPEC), SPEC)
    with pytest.raises(UpdateError):
        PLAIN.add(accumulator, update("south", (100.0, 0.0)), 1)
    PLAIN.add(accumulator, update("south", (1.0, 0.0)), 1)
    assert accumulator.sites == {"south": 1}


def test_diagnostics_are_norms_over_the_parameters() -> None:
    algorithm = FedAvg(server_learning_rate=2.0)
    state = algorithm.init(START, SPEC)
    accumulator = algorithm.start(state, SPEC)
    algorithm.add(accumulator, update("north", (3.0, 4.0), 100.0), 1)
    _, diagnostics = algorithm.finish(accumulator, state, counted={"north": (1, 1)})
    assert diagnostics == {"mean_update_norm": 5.0, "step_norm": 10.0}


def test_weights_that_are_not_finite_start_no_run() -> None:
    with pytest.raises(UpdateError, match="NaN or infinity"):
        PLAIN.init({**START, "w": np.array([np.nan, 0.0], np.float32)}, SPEC)


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_both_algorithms_are_this_one_on_the_server_and_ask_for_updates_alone(name: str) -> None:
    algorithm = build_algorithm(
        make_experiment(federation={"algorithm": name, "server_momentum": 0.6, "server_learning_rate": 0.5})
    )
    assert isinstance(algorithm, FedAvg)
    assert (algorithm.server_momentum, algorithm.server_learning_rate) == (0.6, 0.5)
    assert algorithm.uploads == ("delta",)
    assert not algorithm.remembers
