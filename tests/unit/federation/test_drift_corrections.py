"""SCAFFOLD, FedNova, FedDyn, q-FedAvg and MOON on numbers that can be done by hand, at the site and on the server."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import make_experiment, make_site_data
from playing import SPEC, START, play, update
from torch import nn

from medseg_core.config import NEED_FIXED_WEIGHTS, NEED_FRESH_MOMENTUM, NEED_SGD
from medseg_core.errors import ExperimentFileError, RoundOverError, RunError, UpdateError
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.algorithms.feddyn import FedDyn, Regularised
from medseg_core.federation.algorithms.fednova import FedNova
from medseg_core.federation.algorithms.moon import Contrastive, FeatureWatch
from medseg_core.federation.algorithms.qfedavg import QFedAvg
from medseg_core.federation.algorithms.scaffold import Corrected, Scaffold
from medseg_core.learning.local_rule import LocalRule, pull
from medseg_core.learning.local_training import RoundContext, rates_of_round, train_locally
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import get_weights

SGD = {"optimiser": "sgd", "learning_rate": 0.1}


def array(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def descend(rule: LocalRule, start: float, slope: float, rates: list[float], momentum: float = 0.0) -> float:
    """Where one weight ends that is trained on the loss slope * w."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, start)
    rule.begin(layer)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=momentum, nesterov=momentum > 0)
    for rate in rates:
        optimiser.param_groups[0]["lr"] = rate
        layer.weight.grad = torch.tensor([[slope]])
        rule.adjust_gradients(layer)
        optimiser.step()
    rule.end(layer, rates, momentum)
    return layer.weight.item()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("rates", [[0.1], [0.1, 0.1, 0.1], [0.3, 0.2, 0.1, 0.05]])
def test_the_pull_is_how_far_the_optimiser_goes_for_a_gradient_of_one(
    rates: list[float], momentum: float
) -> None:
    assert descend(LocalRule(), 0.0, -1.0, rates, momentum) == pytest.approx(pull(rates, momentum), rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_scaffolds_control_variate_becomes_the_sites_gradient(momentum: float) -> None:
    rule = Corrected({"weight": array(0.5)[None]}, {"weight": array(2.0)[None]})
    end = descend(rule, 1.0, 3.0, [0.1, 0.05], momentum)
    assert end == pytest.approx(
        1.0 - pull([0.1, 0.05], momentum) * (3.0 - 2.0 + 0.5), rel=1e-6
    )  # g - c_i + c
    assert rule.memory["control"]["weight"].item() == pytest.approx(3.0, rel=1e-5)  # c_i' = g
    assert rule.uploads["control"]["weight"].item() == pytest.approx(1.0, rel=1e-5)  # c_i' - c_i


def test_scaffolds_server_steps_by_the_mean_and_its_control_by_the_share() -> None:
    algorithm = Scaffold(server_learning_rate=0.5)
    state = algorithm.init(START, SPEC)
    assert state.memory["control"]["w"].tolist() == [0.0, 0.0]
    north = update("north", (1.0, 0.0), 4.0, others={"control": {"w": array(2.0, 0.0)}})
    south = update("south", (0.0, 1.0), 8.0, others={"control": {"w": array(0.0, 4.0)}})
    state = play(algorithm, state, (north, 3), (south, 1), share=0.5)
    assert state.weights["w"].tolist() == [1.375, 2.125]  # + 0.5 * (0.75, 0.25)
    assert state.weights["running_mean"].tolist() == [15.0]
    assert state.memory["control"]["w"].tolist() == [0.75, 0.5]  # 0.5 * (1.5, 1.0)


def test_scaffolds_control_variates_leave_and_arrive_as_declared() -> None:
    algorithm = build_algorithm(make_experiment(federation={"algorithm": "scaffold"}, training=SGD))
    assert (algorithm.uploads, algorithm.downloads, algorithm.remembers) == (
        ("delta", "control"),
        ("control",),
        True,
    )


def test_fednova_by_hand_without_momentum() -> None:
    algorithm = FedNova()
    state = play(
        algorithm,
        algorithm.init(START, SPEC),
        (update("north", (4.0, 0.0), 4.0, n_steps=4), 1),
        (update("south", (0.0, 1.0), 8.0, n_steps=1), 1),
    )
    tau = (4 + 1) / 2
    np.testing.assert_allclose(state.weights["w"], [1 + tau * 0.5 * 4 / 4, 2 + tau * 0.5 * 1 / 1])
    assert state.weights["running_mean"].tolist() == [16.0]  # averaged only


def test_fednova_with_equal_steps_is_fedavg() -> None:
    algorithm = FedNova(momentum=0.9)
    updates = [(update("north", (1.0, 0.0), n_steps=7), 3), (update("south", (0.0, 2.0), n_steps=7), 1)]
    state = play(algorithm, algorithm.init(START, SPEC), *updates)
    np.testing.assert_allclose(state.weights["w"], [1.75, 2.5], rtol=1e-6)


def test_fednova_refuses_an_update_without_steps() -> None:
    algorithm = FedNova()
    with pytest.raises(UpdateError) as caught:
        play(algorithm, algorithm.init(START, SPEC), (update("north", (1.0, 0.0)), 1))
    assert caught.value.reason == "bad_count"


def test_feddyn_at_the_site() -> None:
    rule = Regularised(0.5, {"weight": array(2.0)[None]})
    w, start = 1.0, 1.0
    for _ in range(2):
        w -= 0.1 * (3.0 - 2.0 + 0.5 * (w - start))
    end = descend(rule, start, 3.0, [0.1, 0.1])
    assert end == pytest.approx(w, rel=1e-6)
    rule.released({"weight": array(end - start)[None]})
    assert rule.memory["gradient"]["weight"].item() == pytest.approx(2.0 - 0.5 * (w - start), rel=1e-6)
    assert rule.uploads == {}


def test_feddyn_on_the_server() -> None:
    algorithm = FedDyn(weight=0.5)
    state = algorithm.init(START, SPEC)
    state = play(algorithm, state, (update("north", (1.0, 0.0), 4.0), 1), share=0.5)
    assert state.memory["h"]["w"].tolist() == [-0.25, 0.0]  # - 0.5 * 0.5 * d
    assert state.weights["w"].tolist() == [2.5, 2.0]  # 1 + d - h / 0.5
    assert state.weights["running_mean"].tolist() == [14.0]


def test_qfedavg_by_hand() -> None:
    algorithm = QFedAvg(fairness=2.0, learning_rate=0.1)
    state = play(
        algorithm,
        algorithm.init(START, SPEC),
        (update("north", (0.3, 0.0), 4.0, loss=0.5), 1),
        (update("south", (0.0, -0.2), 8.0, loss=1.0), 1),
    )
    north_h = 2 * 0.5 * 10 * 0.09 + 0.25  # q F^(q-1) L |d|^2 + F^q
    south_h = 2 * 1.0 * 10 * 0.04 + 1.0
    slope = (north_h + south_h) / 2
    np.testing.assert_allclose(
        state.weights["w"], [1 + 0.5 * 0.25 * 0.3 / slope, 2 - 0.5 * 1.0 * 0.2 / slope], rtol=1e-6
    )
    assert state.weights["running_mean"].tolist() == [16.0]


def test_qfedavg_without_fairness_is_fedavg_and_needs_each_loss() -> None:
    algorithm = QFedAvg(fairness=0.0, learning_rate=0.1)
    state = play(algorithm, algorithm.init(START, SPEC), (update("north", (0.5, 0.0), loss=0.7), 1))
    assert state.weights["w"].tolist() == [1.5, 2.0]
    with pytest.raises(UpdateError) as caught:
        play(algorithm, state, (update("north", (0.5, 0.0), loss=None), 1))
    assert caught.value.reason == "missing_figure"


@pytest.mark.parametrize("loss", [1e200, 1e25])  # beyond float64, beyond float32
def test_qfedavg_refuses_a_loss_that_no_number_can_hold_the_power_of(loss: float) -> None:
    algorithm = QFedAvg(fairness=2.0, learning_rate=0.1)
    with pytest.raises(UpdateError) as caught:
        play(algorithm, algorithm.init(START, SPEC), (update("north", (0.5, 0.0), loss=loss), 1))
    assert caught.value.reason == "overflow"


@pytest.mark.parametrize(("fairness", "loss"), [(40.0, 0.05), (10.0, 0.1), (20.0, 0.3)])
def test_qfedavg_says_so_where_the_power_of_a_loss_vanishes(fairness: float, loss: float) -> None:
    """The sum has steps of 2^-40: of an update times 0.1 to the power of 10 it holds little, of 1e-52 nothing."""
    algorithm = QFedAvg(fairness=fairness, learning_rate=0.01)
    with pytest.raises(RunError, match="Lower fairness"):
        play(algorithm, algorithm.init(START, SPEC), (update("north", (0.5, 0.0), loss=loss), 1))


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
@pytest.mark.parametrize("round_number", [1, 16])
def test_fednova_knows_how_far_steps_lead_while_the_rate_falls(schedule: str, round_number: int) -> None:
    """Sites of 1 and 40 steps whose gradients are the same everywhere: per unit of pull they went equally far."""
    training = {**SGD, "momentum": 0.9, "schedule": schedule}
    experiment = make_experiment(federation={"algorithm": "fednova", "rounds": 16}, training=training)
    algorithm = build_algorithm(experiment)
    state = replace(algorithm.init(START, SPEC), round=round_number - 1)
    ways = {n: pull(rates_of_round(experiment.training, 16, round_number, n), 0.9) for n in (1, 40)}
    north, south = (update(f"s{n}", (way, -way), n_steps=n) for n, way in ways.items())
    state = play(algorithm, state, (north, 1), (south, 3))
    mean = ways[1] / 4 + ways[40] * 3 / 4
    np.testing.assert_allclose(state.weights["w"] - START["w"], (mean, -mean), rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet"])
def test_moons_features_are_those_of_the_deepest_layer(name: str, dims: int) -> None:
    model = {"name": name, "channels": [4, 8, 16], "residual_units": 1}
    patch = [16] * dims
    experiment = make_experiment(model=model, task={"spatial_dims": dims}, training={"patch_size": patch})
    network = build_network(experiment.task, experiment.model, seed=0)
    watch = FeatureWatch(network)
    features = watch.look(torch.rand(2, len(experiment.task.channels), *patch))
    assert features.shape[0] == 2
    assert features.shape[1] >= 16
    watch.close()


def test_moon_draws_to_the_global_model_and_away_from_the_last_local_one() -> None:
    experiment = make_experiment(federation={"algorithm": "moon"})
    network = build_network(experiment.task, experiment.model, seed=0)
    last = get_weights(build_network(experiment.task, experiment.model, seed=1))
    images = torch.rand(2, len(experiment.task.channels), *experiment.training.patch_size)
    rule = Contrastive(2.0, 0.5, last)
    rule.begin(network)
    network.train()(images)
    loss = rule.extra_loss(network, images)
    assert loss is not None
    assert 0 < loss.item() < 2 * math.log(1 + math.exp(4))
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    rule.leave(network)
    rule.end(network, [0.1], 0.0)
    assert rule.memory["previous"].keys() == get_weights(network).keys()
    assert rule.uploads == {}


def test_moon_leaves_nothing_on_a_network_whose_training_was_cut_off() -> None:
    experiment = make_experiment(federation={"algorithm": "moon", "local_epochs": 2})
    network = build_network(experiment.task, experiment.model, seed=0)
    start, cases = get_weights(network), make_site_data("north", train=2).train
    stops = iter([False, True])

    def train(is_over: Callable[[], bool]) -> None:
        context, rule = RoundContext("north", 1), Contrastive(1.0, 0.5, start)
        train_locally(network, cases, experiment, context=context, start=start, rule=rule, is_over=is_over)

    with pytest.raises(RoundOverError):
        train(lambda: next(stops))
    assert not any(module._forward_hooks for module in network.modules())
    train(lambda: False)


def test_moon_adds_nothing_before_a_site_has_trained() -> None:
    experiment = make_experiment(federation={"algorithm": "moon"})
    network = build_network(experiment.task, experiment.model, seed=0)
    rule = Contrastive(2.0, 0.5, None)
    rule.begin(network)
    images = torch.rand(1, len(experiment.task.channels), *experiment.training.patch_size)
    network(images)
    assert rule.extra_loss(network, images) is None


@pytest.mark.parametrize("algorithm", NEED_SGD)
def test_rules_that_count_on_sgd_refuse_adamw_with_a_sentence(algorithm: str) -> None:
    with pytest.raises((ExperimentFileError, ValueError), match=f'algorithm = "{algorithm}" counts on steps'):
        make_experiment(federation={"algorithm": algorithm}, training={"optimiser": "adamw"})


@pytest.mark.parametrize("algorithm", NEED_FRESH_MOMENTUM)
def test_rules_that_know_how_far_steps_lead_refuse_momentum_that_goes_on(algorithm: str) -> None:
    federation = {"algorithm": algorithm, "optimiser_memory": True}
    with pytest.raises(ValueError, match="optimiser_memory = false"):
        make_experiment(federation=federation, training={**SGD, "momentum": 0.9})
    make_experiment(federation=federation, training={**SGD, "momentum": 0.0})


@pytest.mark.parametrize("algorithm", sorted({*NEED_FIXED_WEIGHTS, "geometric_median", "norm_bounding"}))
def test_rules_without_a_place_for_gains_refuse_them(algorithm: str) -> None:
    evaluation = {"server_data": "mine"} if algorithm == "fltrust" else {}
    with pytest.raises(ValueError, match='weights = "validation_gain" has no place'):
        make_experiment(
            federation={"algorithm": algorithm, "weights": "validation_gain"},
            training=SGD,
            evaluation=evaluation,
        )


def test_a_bound_that_scaffolds_control_variates_would_pass_by_is_refused() -> None:
    with pytest.raises(ValueError, match="control variates"):
        make_experiment(federation={"algorithm": "scaffold", "max_update_norm": 1.0}, training=SGD)


@pytest.mark.parametrize("algorithm", [FedNova(0.5, 0.5), QFedAvg(2.0, 0.1), Scaffold(), FedDyn(0.1)])
def test_order_of_arrival_changes_no_bit(algorithm: object) -> None:
    rng = np.random.default_rng(0)
    updates = []
    for i in range(1, 5):
        control = {"control": {"w": rng.standard_normal(2).astype(np.float32)}}
        way = tuple(map(float, rng.standard_normal(2)))
        updates.append((update(f"site{i}", way, n_steps=i, loss=0.3 * i, others=control), i))  # type: ignore[arg-type]
    ends = set()
    for order in itertools.permutations(updates):
        state = algorithm.init(START, SPEC)  # type: ignore[attr-defined]
        for _ in range(2):
            state = play(algorithm, state, *order)  # type: ignore[arg-type]
        ends.add(state.weights["w"].tobytes() + b"".join(m["w"].tobytes() for m in state.memory.values()))
    assert len(ends) == 1
