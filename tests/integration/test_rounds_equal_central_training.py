"""A federation computes what a plain training loop computes, and the average that one gets by hand."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import (
    ScriptedTransport,
    constant_update,
    initial_weights,
    make_experiment,
    make_federation,
    make_run,
    make_site_data,
    newest_sha256,
    newest_weights,
    scripted_site,
)

from medseg_core.cohort.patches import batches, steps_in_pass
from medseg_core.config import Experiment
from medseg_core.learning.local_training import learning_rate_at
from medseg_core.learning.losses import build_loss
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import get_weights
from medseg_core.seeding import derive_seed
from medseg_server.rounds import train

SITES = {"north": 3, "south": 2}


def train_centrally(experiment: Experiment, cases: tuple, site: str) -> dict[str, np.ndarray]:
    """The plain loop: one network and one optimiser from the first to the last step."""
    training, federation = experiment.training, experiment.federation
    torch.set_num_threads(training.cpu_threads)
    network = build_network(
        experiment.task, experiment.model, seed=derive_seed(federation.seed, purpose="initial_weights")
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=1.0, weight_decay=training.weight_decay)
    loss_of = build_loss(training.loss, experiment.task.n_classes)
    network.train()
    steps = federation.local_epochs * steps_in_pass(len(cases), training.batch_size)
    done = 0
    for number in range(1, federation.rounds + 1):
        for batch in batches(
            cases,
            training,
            seed=federation.seed,
            site=site,
            round_number=number,
            passes=federation.local_epochs,
        ):
            optimiser.param_groups[0]["lr"] = learning_rate_at(done / (steps * federation.rounds), training)
            loss = loss_of(network(batch.images), batch.labels)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), training.gradient_clip_norm)
            optimiser.step()
            done += 1
    return get_weights(network)


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_one_site_with_optimiser_memory_equals_a_plain_training_loop(tmp_path: Path, schedule: str) -> None:
    experiment = make_experiment(
        federation={"rounds": 3, "optimiser_memory": True, "local_epochs": 2}, training={"schedule": schedule}
    )
    data = make_site_data("north", train=3)
    run = make_federation(tmp_path, experiment, {"north": data})
    train(run)
    federated, central = newest_weights(run), train_centrally(experiment, data.train, "north")
    effective = [name for name in central if not is_cancelled(name, central)]
    assert max(np.abs(federated[name] - central[name]).max() for name in effective) < 1e-6
    start = initial_weights(experiment)
    assert max(np.abs(central[name] - start[name]).max() for name in effective) > 1e-3  # they did move


def is_cancelled(name: str, weights: Mapping[str, np.ndarray]) -> bool:
    """A bias that instance normalisation takes out again: its gradient is rounding noise, which AdamW scales up."""
    return name.endswith("conv.bias") and f"{name.removesuffix('conv.bias')}adn.A.weight" in weights


def test_without_memory_each_round_starts_a_fresh_optimiser(tmp_path: Path) -> None:
    data = {"north": make_site_data("north")}
    forgetful = make_federation(tmp_path / "a", make_experiment(), data)
    remembering = make_federation(
        tmp_path / "b", make_experiment(federation={"rounds": 2, "optimiser_memory": True}), data
    )
    train(forgetful)
    train(remembering)
    assert newest_sha256(forgetful.store) != newest_sha256(remembering.store)


def test_the_average_through_the_whole_loop_is_the_one_by_hand(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"rounds": 2})
    transport = ScriptedTransport(
        {
            "north": scripted_site("north", constant_update(experiment, 0.5), cases=3),
            "south": scripted_site("south", constant_update(experiment, -0.25), cases=1),
        }
    )
    run = make_run(tmp_path, experiment, transport)
    trained = train(run)
    seed = derive_seed(experiment.federation.seed, purpose="initial_weights")
    start = initial_weights(experiment, seed)
    mean = np.float32((3 * 0.5 - 1 * 0.25) / 4)  # 0.3125, exact in binary
    for name, weights in newest_weights(run).items():
        np.testing.assert_array_equal(weights, (start[name] + mean) + mean, err_msg=name)
    assert [r["contributed"]["north"]["cases"] for r in trained.history] == [3, 3]


def test_server_momentum_through_the_whole_loop_is_the_one_by_hand(tmp_path: Path) -> None:
    experiment = make_experiment(
        federation={"rounds": 3, "server_momentum": 0.5, "server_learning_rate": 2.0}
    )
    run = make_run(
        tmp_path,
        experiment,
        ScriptedTransport({"north": scripted_site("north", constant_update(experiment, 0.25))}),
    )
    train(run)
    start = initial_weights(experiment, derive_seed(0, purpose="initial_weights"))
    moved = 2 * (0.25 + 0.375 + 0.4375)  # velocities 0.25, 0.25/2 + 0.25, 0.375/2 + 0.25
    for name, weights in newest_weights(run).items():
        np.testing.assert_allclose(weights, start[name] + moved, rtol=1e-6, atol=1e-6, err_msg=name)


def test_order_of_arrival_changes_no_bit(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"rounds": 2, "server_momentum": 0.6})
    data = {site: make_site_data(site, train=n) for site, n in {**SITES, "west": 4}.items()}
    ends = set()
    for number, order in enumerate((sorted, lambda s: sorted(s, reverse=True), lambda s: [s[1], s[2], s[0]])):
        run = make_federation(tmp_path / str(number), experiment, data)
        run.transport.order = order
        train(run)
        ends.add(newest_sha256(run.store))
    assert len(ends) == 1


def test_fedprox_with_weight_zero_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    data = {site: make_site_data(site, train=n) for site, n in SITES.items()}
    ends = set()
    for algorithm in ("fedavg", "fedprox"):
        experiment = make_experiment(federation={"algorithm": algorithm, "proximal_weight": 0.0, "rounds": 2})
        run = make_federation(tmp_path / algorithm, experiment, data)
        train(run)
        ends.add(newest_sha256(run.store))
    assert len(ends) == 1


def test_equal_seeds_give_equal_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    data = {site: make_site_data(site, train=n) for site, n in SITES.items()}
    ends = []
    for number, seed in enumerate((7, 7, 8)):
        run = make_federation(
            tmp_path / str(number), make_experiment(federation={"seed": seed, "rounds": 2}), data
        )
        train(run)
        ends.append(newest_sha256(run.store))
    assert ends[0] == ends[1] != ends[2]


def test_a_whole_run_touches_no_global_random_state(tmp_path: Path) -> None:
    run = make_federation(
        tmp_path,
        make_experiment(
            model={"channels": [4, 8], "residual_units": 1, "dropout": 0.1}, training={"augmentation": {}}
        ),
        {"north": make_site_data("north")},
    )
    torch.manual_seed(11)
    np.random.seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train(run)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
