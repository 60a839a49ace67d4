"""The local loop: schedule over the whole run, FedProx, optimiser memory, randomness, running out of memory."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from builders import initial_weights, make_case, make_experiment, make_site_data
from torch import nn

from medseg_core.cohort.patches import Batch, one_ahead
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment
from medseg_core.errors import OutOfMemoryError
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.algorithms.fedprox import Proximal
from medseg_core.learning import local_training, networks
from medseg_core.learning.local_training import (
    RoundContext,
    TrainingReport,
    learning_rate_at,
    train_locally,
)
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import get_weights

Weights = Mapping[str, npt.NDArray[np.float32]]
CASES = make_site_data("north", train=3).train
DEEP_CASES = [  # in 3D: the same slice eight times
    dataclasses.replace(
        case,
        image=np.stack([case.image] * 8, axis=1),
        label=np.stack([case.label] * 8),
        foreground=np.insert(case.foreground, 1, 3, axis=1),
    )
    for case in CASES
]


def run_round(
    experiment: Experiment,
    number: int = 1,
    start: Weights | None = None,
    memory: Weights | None = None,
    site: str = "north",
    parts: int = 1,
    cases: Sequence[PreprocessedCase] = CASES,
) -> tuple[Weights, Weights, TrainingReport]:
    """Weights, memory and report after one round."""
    torch.set_num_threads(1)
    network = build_network(experiment.task, experiment.model, seed=0)
    report, after = train_locally(
        network,
        cases,
        experiment,
        context=RoundContext(site, number),
        start=initial_weights(experiment) if start is None else start,
        rule=build_algorithm(experiment).local_rule({}, {}),
        memory=memory,
        parts=parts,
    )
    return get_weights(network), after, report


def are_equal(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)


def distance(first: Weights, second: Weights) -> float:
    return float(np.sqrt(sum(np.square(first[n] - second[n]).sum() for n in first)))


def rates_of(experiment: Experiment, monkeypatch: pytest.MonkeyPatch, rounds: int) -> list[float]:
    """Learning rates of every step of so many rounds, as the optimiser is given them."""
    rates: list[float] = []

    def noted(progress: float, training: object) -> float:
        rates.append(learning_rate_at(progress, experiment.training))
        return rates[-1]

    monkeypatch.setattr(local_training, "learning_rate_at", noted)
    for number in range(1, rounds + 1):
        run_round(experiment, number)
    return rates


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("poly", [1.0, 0.75**0.9, 0.5**0.9, 0.25**0.9, 0.0]),
        ("cosine", [1.0, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0.0]),
        ("constant", [1.0] * 5),
    ],
)
def test_the_schedule_by_hand(schedule: str, expected: list[float]) -> None:
    training = make_experiment(training={"schedule": schedule, "learning_rate": 1.0}).training
    assert [learning_rate_at(t, training) for t in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx(expected)


def test_the_schedule_runs_over_all_rounds_and_is_never_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(federation={"rounds": 3, "local_epochs": 2}, training={"learning_rate": 1.0})
    rates = rates_of(experiment, monkeypatch, 3)
    assert rates == pytest.approx(
        [(1 - step / 12) ** 0.9 for step in range(12)]
    )  # 2 passes of 2 batches a round


def test_equal_rounds_give_equal_bits_and_another_seed_round_or_site_does_not() -> None:
    experiment = make_experiment()
    weights, memory, report = run_round(experiment)
    again, memory_again, report_again = run_round(experiment)
    assert are_equal(weights, again)
    assert are_equal(memory, memory_again)
    assert report.loss == report_again.loss
    others = [
        run_round(make_experiment(federation={"seed": 5}))[0],
        run_round(experiment, number=2)[0],
        run_round(experiment, site="south")[0],
    ]
    assert not any(are_equal(weights, other) for other in others)


def test_the_report_counts_cases_and_steps() -> None:
    report = run_round(make_experiment(federation={"local_epochs": 3}))[2]
    assert (report.n_cases, report.n_steps) == (3, 6)
    assert report.loss > 0
    assert report.training_s > 0
    assert report.waiting_s >= 0


def test_dropout_leaves_the_global_generators_alone_and_still_repeats() -> None:
    experiment = make_experiment(model={"channels": [4, 8], "residual_units": 1, "dropout": 0.3})
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = run_round(experiment)[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(2)
    assert are_equal(first, run_round(experiment)[0])


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_memory_continues_the_optimiser(optimiser: str) -> None:
    experiment = make_experiment(training={"optimiser": optimiser})
    weights, memory, _ = run_round(experiment)
    remembering = run_round(experiment, 2, start=weights, memory=memory)[0]
    forgetful = run_round(experiment, 2, start=weights)[0]
    assert not are_equal(remembering, forgetful)
    slots = {"adamw": {"step", "exp_avg", "exp_avg_sq"}, "sgd": {"momentum_buffer"}}[optimiser]
    assert {key.rsplit("/", 1)[1] for key in memory} == slots


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_memory_does_not_depend_on_how_weights_lie_in_memory(
    optimiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(
        task={"spatial_dims": 3}, training={"optimiser": optimiser, "patch_size": [8, 16, 16]}
    )
    rounds = []
    for layout in (torch.channels_last_3d, torch.contiguous_format):
        monkeypatch.setattr(networks, "FEW_CHANNELS_LAYOUT", layout)
        weights, memory, _ = run_round(experiment, cases=DEEP_CASES)
        rounds.append(run_round(experiment, 2, start=weights, memory=memory, cases=DEEP_CASES))
    (weights, memory, _), (plain_weights, plain_memory, _) = rounds

    for name in (
        name for name in weights if not name.endswith("conv.bias")
    ):  # those are noise before a normalisation
        np.testing.assert_allclose(weights[name], plain_weights[name], atol=1e-4, err_msg=name)
    for name in (name for name in memory if "conv.bias" not in name):
        np.testing.assert_allclose(memory[name], plain_memory[name], atol=1e-4, err_msg=name)


def test_memory_that_is_handed_in_is_not_changed() -> None:
    experiment = make_experiment()
    weights, memory, _ = run_round(experiment)
    before = {key: value.copy() for key, value in memory.items()}
    run_round(experiment, 2, start=weights, memory=memory)
    assert are_equal(memory, before)


def fedprox(weight: float) -> Experiment:
    return make_experiment(
        federation={"algorithm": "fedprox", "proximal_weight": weight, "local_epochs": 4},
        training={"optimiser": "sgd", "gradient_clip_norm": 0.0},
    )


def test_fedprox_with_weight_zero_is_fedavg_bit_for_bit() -> None:
    plain = make_experiment(
        federation={"local_epochs": 4}, training={"optimiser": "sgd", "gradient_clip_norm": 0.0}
    )
    assert are_equal(run_round(fedprox(0.0))[0], run_round(plain)[0])


def test_a_larger_proximal_weight_stays_closer_to_the_global_model() -> None:
    start = initial_weights(fedprox(0.0))
    distances = [distance(run_round(fedprox(weight))[0], start) for weight in (0.0, 1.0, 10.0)]
    assert distances[0] > distances[1] > distances[2] > 0


def test_a_proximal_weight_in_fedavg_does_nothing() -> None:
    with_weight = make_experiment(federation={"proximal_weight": 10.0})
    assert are_equal(run_round(with_weight)[0], run_round(make_experiment())[0])


def test_the_proximal_gradient_by_hand() -> None:
    layer, rule = nn.Linear(2, 1, bias=False), Proximal(0.25)
    nn.init.ones_(layer.weight)
    rule.begin(layer)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -1.0]]))
    layer.weight.grad = torch.tensor([[0.5, 0.5]])
    rule.adjust_gradients(layer)
    assert layer.weight.grad.tolist() == [[0.5 + 0.25 * 2, 0.5 - 0.25 * 2]]


def test_clipping_bounds_a_step_of_plain_descent() -> None:
    settings = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    experiment = make_experiment(training={**settings, "learning_rate": 1.0, "gradient_clip_norm": 0.001})
    moved = distance(run_round(experiment)[0], initial_weights(experiment))
    assert 0 < moved <= 2 * 0.001 * 1.001  # two steps


def test_batch_statistics_move_and_travel() -> None:
    experiment = make_experiment(model={"channels": [4, 8], "residual_units": 1, "normalisation": "batch"})
    start = initial_weights(experiment)
    moved = run_round(experiment)[0]
    buffers = [name for name in start if "running" in name]
    assert buffers
    assert all(not np.array_equal(moved[name], start[name]) for name in buffers)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate 9 TiB"),
    ],
)
def test_running_out_of_memory_gets_a_sentence_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(name: str, n_classes: int) -> object:
        def loss(logits: object, target: object, unknown: object) -> None:
            raise error

        return loss

    monkeypatch.setattr(local_training, "build_loss", failing)
    with pytest.raises(
        OutOfMemoryError, match=r"out of memory on cpu with batches of 2 patches of 16x16.*Lower"
    ):
        run_round(make_experiment())


def test_other_faults_of_torch_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(name: str, n_classes: int) -> object:
        def loss(logits: object, target: object, unknown: object) -> None:
            raise RuntimeError("shapes differ")

        return loss

    monkeypatch.setattr(local_training, "build_loss", failing)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_round(make_experiment())


@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_in_parts_that_are_alike_makes_the_same_step_but_for_rounding(parts: int) -> None:
    experiment = make_experiment(training={"batch_size": 3, "optimiser": "sgd"})
    whole, _, report = run_round(experiment)
    in_parts, _, other = run_round(experiment, parts=parts)
    assert distance(whole, in_parts) < 1e-3 * distance(whole, initial_weights(experiment))
    assert other.loss == pytest.approx(report.loss, rel=1e-5)
    assert other.n_steps == report.n_steps


def test_a_batch_in_parts_that_differ_has_the_mean_of_their_losses() -> None:
    differing = (make_case("small", (16, 16)), make_case("large", (48, 48)))
    slow = {"optimiser": "sgd", "learning_rate": 1e-12, "loss": "dice"}
    whole, in_parts = (
        run_round(make_experiment(training={**slow, "batch_size": 2}), cases=differing, parts=parts)[2].loss
        for parts in (1, 2)
    )
    assert in_parts == pytest.approx(
        run_round(make_experiment(training={**slow, "batch_size": 1}), cases=differing)[2].loss, rel=1e-3
    )
    assert abs(in_parts - whole) > 1e-3  # overlaps of both together are others than the mean of theirs


@pytest.mark.parametrize(("cores", "is_ahead"), [(1, False), (2, True)])
def test_patches_are_prepared_beside_the_steps_only_where_a_core_is_left(
    monkeypatch: pytest.MonkeyPatch, cores: int, is_ahead: bool
) -> None:
    seen: list[int] = []

    def ahead(drawn: Iterator[Batch]) -> Iterator[Batch]:
        seen.append(torch.get_num_threads())
        return one_ahead(drawn)

    monkeypatch.setattr(local_training, "one_ahead", ahead)
    monkeypatch.setattr(local_training, "usable_cores", lambda: cores)
    run_round(make_experiment())
    assert seen == ([1] if is_ahead else [])
