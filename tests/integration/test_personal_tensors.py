"""A site's own tensors: merged with what comes, never sent, rolled back with an update, kept for the best model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    initial_weights,
    make_experiment,
    make_guard,
    make_request,
    make_site_data,
    make_trainer,
    opened,
)
from safetensors.numpy import load

from medseg_client.approval import words
from medseg_client.personal import own_part
from medseg_client.policy import Policy
from medseg_client.site_state import SiteState
from medseg_client.trainer import Trainer
from medseg_core.config import Experiment
from medseg_core.federation.codec import encode_tensors, read_tensors
from medseg_core.federation.shared_tensors import count_numbers, initial_network, shared_spec
from medseg_core.learning.weights import Weights, get_weights
from medseg_core.wire.codes import RefusalCode

DATA = make_site_data("north", train=2)
ALGORITHMS = ("fedbn", "silobn", "fedrep", "ditto")


def experiment_of(algorithm: str = "fedbn", **federation: Any) -> Experiment:
    federation = {"algorithm": algorithm, "rounds": 9, **federation}
    return make_experiment(federation=federation, model={"normalisation": "batch"})


def shared_weights(experiment: Experiment, seed: int = 0) -> Weights:
    """What a coordinator sends: the tensors that travel."""
    names = shared_spec(experiment, initial_network(experiment)).tensors
    weights = initial_weights(experiment, seed)
    return {name: weights[name] for name in names}


def ask(trainer: Trainer, experiment: Experiment, kind: str = "train", number: int = 1, **fields: Any) -> Any:
    """The opened answer to a request; `counted` and `kept` are (round, attempt)."""
    for name in ("counted", "kept"):
        if update := fields.pop(name, None):
            fields |= {f"{name}_round": update[0], f"{name}_attempt": update[1]}
    weights = fields.pop("weights", None) or shared_weights(experiment)
    return opened(trainer.handle(make_request(experiment, kind, weights=weights, round=number, **fields)))


def memory_of(folder: Path, transaction: str) -> dict[str, np.ndarray]:
    joined = load((folder / "run" / transaction / "memory.safetensors").read_bytes())
    return {name.removeprefix("personal/"): tensor for name, tensor in joined.items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_update_holds_the_shared_tensors_and_nothing_else(tmp_path: Path, algorithm: str) -> None:
    experiment = experiment_of(algorithm)
    reply = ask(make_trainer(tmp_path, experiment, DATA), experiment)
    network = initial_network(experiment)
    assert read_tensors(reply.payload).keys() == shared_spec(experiment, network).tensors.keys()
    own = memory_of(tmp_path, "train_000001_1")
    whole = get_weights(network).keys()
    assert own.keys() == (whole if algorithm == "ditto" else whole - read_tensors(reply.payload).keys())


def test_tensors_of_a_sites_own_are_not_taken_from_the_coordinator(tmp_path: Path) -> None:
    experiment, faults = experiment_of(), list[Exception]()
    trainer = make_trainer(tmp_path, experiment, DATA, faults=faults)
    reply = ask(trainer, experiment, weights=initial_weights(experiment))
    assert reply.header.direction == "refusal"
    assert "not of this model" in str(faults[0])


def test_before_its_first_counted_round_a_site_has_the_tensors_of_the_seeded_network(tmp_path: Path) -> None:
    seeds = [experiment_of("fedrep", seed=seed) for seed in (0, 1)]
    sent = shared_weights(seeds[0])
    updates = [
        read_tensors(ask(make_trainer(tmp_path / str(n), e, DATA), e, weights=sent).payload)
        for n, e in enumerate(seeds)
    ]
    assert any(not np.array_equal(updates[0][name], updates[1][name]) for name in updates[0])
    again = ask(make_trainer(tmp_path / "again", seeds[0], DATA), seeds[0], weights=sent)
    assert again.payload == encode_tensors(updates[0])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_update_that_was_not_counted_leaves_nothing_behind(tmp_path: Path, algorithm: str) -> None:
    experiment = experiment_of(algorithm)
    disturbed, calm = (make_trainer(tmp_path / name, experiment, DATA) for name in ("disturbed", "calm"))
    ask(disturbed, experiment)
    ask(disturbed, experiment, number=2)  # round 1 was not counted
    ask(calm, experiment, number=2)
    first, second = (memory_of(tmp_path / name, "train_000002_1") for name in ("disturbed", "calm"))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    ask(calm, experiment, number=3, counted=(2, 1))
    third = memory_of(tmp_path / "calm", "train_000003_1")
    assert any(not np.array_equal(third[name], second[name]) for name in third)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_restart_between_rounds_changes_no_bit(tmp_path: Path, algorithm: str) -> None:
    experiment = experiment_of(algorithm, optimiser_memory=True)
    trainer = make_trainer(tmp_path, experiment, DATA)
    ask(trainer, experiment)
    before = ask(trainer, experiment, number=2, counted=(1, 1))
    first = memory_of(tmp_path, "train_000002_1")
    restarted = make_trainer(tmp_path, experiment, DATA)
    after = ask(restarted, experiment, number=2, counted=(1, 1), attempt=2)
    assert after.payload == before.payload
    second = memory_of(tmp_path, "train_000002_2")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_model_is_scored_with_the_tensors_of_its_own_round(tmp_path: Path) -> None:
    experiment = experiment_of("fedbn", local_epochs=8)
    trainer = make_trainer(tmp_path, experiment, DATA)
    ask(trainer, experiment)
    for number in (2, 3, 4, 5, 6):
        ask(trainer, experiment, number=number, counted=(number - 1, 1), kept=(1, 1))
    kept = sorted(path.parent.name for path in tmp_path.rglob("memory.safetensors"))
    assert kept == ["train_000001_1", "train_000004_1", "train_000005_1", "train_000006_1"]
    dropped = ask(
        make_trainer(tmp_path, experiment, DATA, faults=[]),
        experiment,
        "evaluate",
        number=2,
        split="validation",
        counted=(2, 1),
    )
    assert dropped.header.code is RefusalCode.STALE_ROUND
    tested = ask(trainer, experiment, "evaluate", split="test", counted=(1, 1))
    own = load((tmp_path / "run" / "evaluate_test_000001_1" / "personal.safetensors").read_bytes())
    first = memory_of(tmp_path, "train_000001_1")
    assert all(np.array_equal(own[name], first[name]) for name in first)
    assert own.keys() == first.keys()
    assert not any(name.startswith("personal:") for name in tested.header.scalars)


def test_dittos_test_tells_of_both_models_and_keeps_the_cases(tmp_path: Path) -> None:
    experiment = experiment_of("ditto", local_epochs=8)
    guard = make_guard(tmp_path / "ledger", algorithms=("ditto",))
    trainer = make_trainer(tmp_path / "state", experiment, DATA, guard=guard)
    ask(trainer, experiment)
    told = ask(trainer, experiment, "evaluate", split="test", counted=(1, 1)).header.scalars
    shared = {name for name in told if not name.startswith("personal:")}
    assert {name.removeprefix("personal:") for name in told} == shared
    assert told["dice"] != told["personal:dice"]
    folder = tmp_path / "state" / "run" / "evaluate_test_000001_1"
    cases = json.loads((folder / "personal_cases.json").read_text())
    assert np.mean([case["mean"]["dice"] for case in cases]) == pytest.approx(told["personal:dice"])
    own = load((folder / "personal.safetensors").read_bytes())
    trained = load((tmp_path / "state" / "run" / "train_000001_1" / "memory.safetensors").read_bytes())
    assert all(np.array_equal(own[name], trained[f"personal/{name}"]) for name in own)
    assert own_part(SiteState(tmp_path / "state"), "run") == folder / "personal.safetensors"


def test_fine_tuning_trains_on_from_the_chosen_model_and_sends_its_scores_alone(tmp_path: Path) -> None:
    experiment = experiment_of("fedavg", fine_tuning={"epochs": 4})
    trainer = make_trainer(tmp_path, experiment, DATA)
    reply = ask(trainer, experiment, "evaluate", split="test")
    assert reply.payload == b""
    assert reply.header.scalars["personal:dice"] != reply.header.scalars["dice"]
    own = load((tmp_path / "run" / "evaluate_test_000001_1" / "personal.safetensors").read_bytes())
    sent = shared_weights(experiment)
    assert own.keys() == sent.keys()
    assert any(np.abs(own[name] - sent[name]).max() > 1e-3 for name in sent)
    again = make_trainer(tmp_path / "again", experiment, DATA)
    assert ask(again, experiment, "evaluate", split="test").header.scalars == reply.header.scalars


def test_validation_asks_for_no_fine_tuning(tmp_path: Path) -> None:
    experiment = experiment_of("fedavg", fine_tuning={"epochs": 4})
    reply = ask(make_trainer(tmp_path, experiment, DATA), experiment, "evaluate", split="validation")
    assert reply.header.scalars.keys() == {"dice"}


def test_a_hospital_reads_what_stays_before_it_agrees() -> None:
    allowed = Policy(algorithms=("fedbn", "ditto", "fedavg"))
    fedbn = " ".join(words(experiment_of("fedbn"), allowed))
    _, staying = count_numbers(experiment_of("fedbn"))
    assert f"- never: {staying} more numbers of the network; every site has its own of those" in fedbn
    assert "the same of this site's own model, which is not sent" in " ".join(
        words(experiment_of("ditto"), allowed)
    )
    tuned = " ".join(words(experiment_of("fedavg", fine_tuning={"epochs": 3}), allowed))
    assert "this site then trains the chosen model 3 times more over its training cases" in tuned
