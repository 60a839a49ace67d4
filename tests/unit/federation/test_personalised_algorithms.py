"""FedBN, SiloBN, FedRep and Ditto: which tensors stay at the site, and their steps on numbers done by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import make_case, make_experiment
from torch import nn

from medseg_core.config import Experiment
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.algorithms.ditto import HeldTo
from medseg_core.federation.algorithms.fedrep import HeadFirst
from medseg_core.federation.shared_tensors import count_numbers, initial_network, shared_spec
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.local_training import RoundContext, train_locally
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import Weights, get_weights

BATCH = {"normalisation": "batch"}
NETWORKS: list[dict[str, Any]] = [
    {"name": "unet", **BATCH},
    {"name": "unet", "residual_units": 0, **BATCH},
    {"name": "dynunet", "channels": [4, 8, 8], **BATCH},
    {"name": "attention_unet", **BATCH},
    {"name": "segresnet", "channels": [8, 16], **BATCH},
]


def experiment_of(algorithm: str, model: dict[str, Any] = BATCH, **sections: Any) -> Experiment:
    return make_experiment(**{"federation": {"algorithm": algorithm}, "model": model, **sections})


def local_names(algorithm: str, model: dict[str, Any]) -> tuple[frozenset[str], Weights]:
    experiment = experiment_of(algorithm, model)
    network = build_network(experiment.task, experiment.model, seed=0)
    return build_algorithm(experiment).local_names(network), get_weights(network)


@pytest.mark.parametrize("model", NETWORKS)
def test_silobn_keeps_the_running_statistics_and_fedbn_what_is_trained_beside_them(
    model: dict[str, Any],
) -> None:
    statistics, weights = local_names("silobn", model)
    assert statistics == {name for name in weights if name.endswith(("running_mean", "running_var"))}
    kept, _ = local_names("fedbn", model)
    layers = {name.removesuffix(".running_var") for name in statistics if name.endswith("running_var")}
    assert layers
    assert kept == statistics | {f"{layer}.{what}" for layer in layers for what in ("weight", "bias")}


@pytest.mark.parametrize("model", NETWORKS)
def test_the_head_of_fedrep_makes_the_maps_of_the_classes_and_is_a_small_part(model: dict[str, Any]) -> None:
    head, weights = local_names("fedrep", model)
    assert head
    largest = max((weights[name] for name in head), key=lambda tensor: tensor.ndim)
    assert 2 in largest.shape[:2]  # background and the one label
    assert sum(weights[name].size for name in head) < sum(weights[name].size for name in weights) / 2


def test_the_head_of_the_plain_network_is_its_last_convolution() -> None:
    task = {"spatial_dims": 3}
    training = {"patch_size": [8, 8, 8]}
    experiment = experiment_of("fedrep", {"name": "cnn3d"}, task=task, training=training)
    network = build_network(experiment.task, experiment.model, seed=0)
    assert build_algorithm(experiment).local_names(network) == {"2.weight", "2.bias"}


@pytest.mark.parametrize("algorithm", ["fedbn", "silobn", "fedrep"])
def test_what_travels_and_what_stays_make_up_the_network(algorithm: str) -> None:
    experiment = experiment_of(algorithm)
    network = initial_network(experiment)
    spec, weights = shared_spec(experiment, network), get_weights(network)
    local = build_algorithm(experiment).local_names(network)
    assert spec.tensors.keys() == weights.keys() - local
    travelling, staying = count_numbers(experiment)
    assert travelling == sum(weights[name].size for name in spec.tensors)
    assert staying == sum(weights[name].size for name in local) > 0


def test_with_ditto_everything_travels() -> None:
    assert count_numbers(experiment_of("ditto"))[1] == 0


@pytest.mark.parametrize("algorithm", ["fedbn", "silobn"])
def test_a_network_without_batch_normalisation_is_refused(algorithm: str) -> None:
    with pytest.raises(ValueError, match='it needs \\[model\\] normalisation = "batch", got "instance"'):
        experiment_of(algorithm, {"normalisation": "instance"})


def test_the_coordinators_own_data_needs_a_whole_model() -> None:
    with pytest.raises(ValueError, match="Leave server_data out"):
        experiment_of("fedbn", evaluation={"server_data": "own"})


def test_ditto_and_fine_tuning_are_one_personal_model_too_many() -> None:
    federation = {"algorithm": "ditto", "fine_tuning": {"epochs": 1}}
    with pytest.raises(ValueError, match="Set epochs = 0"):
        make_experiment(federation=federation)


def test_dittos_step_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)  # v
    rule = HeldTo(0.5, {"weight": np.array([[1.0]], np.float32)})  # lambda, w
    rule.begin(layer)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    expected = 3.0
    for _ in range(3):
        layer.weight.grad = torch.tensor([[2.0]])
        rule.adjust_gradients(layer)
        optimiser.step()
        expected -= 0.1 * (2.0 + 0.5 * (expected - 1.0))  # v - eta (gradient + lambda (v - w))
    assert layer.weight.item() == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(3.0 - 0.3 - 0.285 - 0.27075)


def test_fedrep_trains_the_head_first_and_then_all_but_the_head() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1.0)
    rule = HeadFirst("1", head_epochs=2)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    seen = []
    rule.begin(network)
    for number in range(3):  # two passes for the head, one for the rest
        rule.begin_pass(number)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        rule.adjust_gradients(network)
        optimiser.step()
        seen.append([parameter.item() for parameter in network.parameters()])
    once = 1.0 - 0.1 * (1 + 0.1 * 1.0)  # 0.89
    twice = once - 0.1 * (1 + 0.1 * once)  # 0.7811
    np.testing.assert_allclose(seen, [[1.0, once], [1.0, twice], [once, twice]], rtol=1e-6)


def test_a_rule_gets_its_extra_passes_and_hears_of_each() -> None:
    experiment = make_experiment(federation={"local_epochs": 2})
    heard: list[int] = []

    class Listening(LocalRule):
        def __init__(self) -> None:
            super().__init__()
            self.extra_passes = 1

        def begin_pass(self, number: int) -> None:
            heard.append(number)

    network = build_network(experiment.task, experiment.model, seed=0)
    cases = [make_case(f"case-{n}") for n in range(3)]  # in batches of 2
    report, _ = train_locally(
        network,
        cases,
        experiment,
        context=RoundContext("north", 1),
        start=get_weights(network),
        rule=Listening(),
    )
    assert heard == [0, 1, 2]
    assert report.n_steps == 3 * 2
