"""A site's state is a transaction for each round and attempt: repeats, conflicts, roll-back, restarts, pruning."""

from pathlib import Path

import numpy as np
import pytest
from builders import (
    constant_update,
    initial_weights,
    make_experiment,
    make_request,
    make_site_data,
    make_trainer,
    opened,
)
from safetensors.numpy import load
from torch import nn

from medseg_client.trainer import Trainer
from medseg_core.config import Experiment
from medseg_core.federation.codec import decode_kinds, read_tensors
from medseg_core.federation.codecs import build_codec
from medseg_core.federation.update import DELTA, Tensors, spec_of
from medseg_core.learning.local_training import TrainingReport
from medseg_core.learning.weights import set_weights
from medseg_core.wire.codes import RefusalCode

DATA = make_site_data("north", train=2)


@pytest.fixture
def experiment() -> Experiment:
    return make_experiment(federation={"rounds": 9, "optimiser_memory": True})


@pytest.fixture
def trainer(tmp_path: Path, experiment: Experiment) -> Trainer:
    return make_trainer(tmp_path, experiment, DATA, faults=[])


def train_request(
    experiment: Experiment, number: int, attempt: int = 1, counted: tuple[int, int] = (0, 0)
) -> bytes:
    return make_request(
        experiment, round=number, attempt=attempt, counted_round=counted[0], counted_attempt=counted[1]
    )


def update_in(reply: bytes) -> dict[str, np.ndarray]:
    assert opened(reply).header.direction == "reply", opened(reply).header.code
    return read_tensors(opened(reply).payload)


def are_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


def code_in(reply: bytes) -> RefusalCode | None:
    return opened(reply).header.code


def test_a_repeated_request_gets_the_same_bytes_without_training_again(
    tmp_path: Path, experiment: Experiment, trainer: Trainer
) -> None:
    request = train_request(experiment, 1)
    reply = trainer.handle(request)

    def no_data(_: Experiment) -> None:
        raise AssertionError("cases were asked for again")

    restarted = make_trainer(tmp_path, experiment, no_data)
    assert restarted.handle(request) == trainer.handle(request) == reply


def test_a_conflicting_request_is_refused_and_changes_nothing(
    experiment: Experiment, trainer: Trainer
) -> None:
    request = train_request(experiment, 1)
    reply = trainer.handle(request)
    other = make_request(experiment, weights=initial_weights(experiment, seed=5))
    assert code_in(trainer.handle(other)) is RefusalCode.CONFLICTING_REQUEST
    assert trainer.handle(request) == reply


def test_an_update_that_was_not_counted_is_as_if_it_had_never_been(
    tmp_path: Path, experiment: Experiment, trainer: Trainer
) -> None:
    trainer.handle(train_request(experiment, 1))
    uncounted = trainer.handle(
        train_request(experiment, 2)
    )  # counted_round 0: round 1 did not enter the model
    undisturbed = make_trainer(tmp_path / "other", experiment, DATA).handle(train_request(experiment, 2))
    assert are_equal(update_in(uncounted), update_in(undisturbed))


def test_a_counted_update_leaves_its_memory_behind(
    tmp_path: Path, experiment: Experiment, trainer: Trainer
) -> None:
    trainer.handle(train_request(experiment, 1))
    continued = update_in(trainer.handle(train_request(experiment, 2, counted=(1, 1))))
    fresh = update_in(make_trainer(tmp_path / "other", experiment, DATA).handle(train_request(experiment, 2)))
    assert not are_equal(fresh, continued)


@pytest.mark.parametrize("codec", ["fp16", "int8", "topk"])
def test_what_a_codec_leaves_over_comes_with_the_next_counted_update(tmp_path: Path, codec: str) -> None:
    experiment = make_experiment(federation={"rounds": 9}, codec={"name": codec})
    trainer, written = make_trainer(tmp_path, experiment, DATA), build_codec(experiment)
    step = {
        name: np.sin(np.arange(w.size)).reshape(w.shape) for name, w in initial_weights(experiment).items()
    }

    def learn(network: nn.Module, *_: object, start: Tensors, **__: object) -> tuple[TrainingReport, Tensors]:
        set_weights(network, {name: (w + step[name]).astype(np.float32) for name, w in start.items()})
        return TrainingReport(n_cases=2, n_steps=1, loss=1.0, training_s=1.0, waiting_s=0.0), {}

    trainer.learn = learn
    arrived = {name: np.zeros_like(tensor) for name, tensor in step.items()}
    for number in range(1, 5):
        counted = (number - 1, 1) if number > 1 else (0, 0)
        reply = trainer.handle(train_request(experiment, number, counted=counted))
        spec = spec_of(initial_weights(experiment), frozenset(step))
        update = decode_kinds(opened(reply).payload, {DELTA: spec}, main=DELTA, codec=written)[DELTA]
        arrived = {name: arrived[name] + update[name] for name in arrived}

    left = load(next(tmp_path.rglob("train_000004_1/memory.safetensors")).read_bytes())
    for name, wanted in step.items():
        np.testing.assert_allclose(
            arrived[name] + left[f"left_over/{name}"], 4 * wanted, atol=1e-5, err_msg=name
        )


def test_a_new_attempt_starts_from_the_same_state_as_the_first(
    experiment: Experiment, trainer: Trainer
) -> None:
    trainer.handle(train_request(experiment, 1))
    attempts = [
        update_in(trainer.handle(train_request(experiment, 2, attempt=n, counted=(1, 1)))) for n in (1, 2, 3)
    ]
    assert are_equal(attempts[0], attempts[1])
    assert are_equal(attempts[0], attempts[2])


def test_memory_survives_a_restart_of_the_process(
    tmp_path: Path, experiment: Experiment, trainer: Trainer
) -> None:
    trainer.handle(train_request(experiment, 1))
    restarted = make_trainer(tmp_path, experiment, DATA)
    after = update_in(restarted.handle(train_request(experiment, 2, attempt=1, counted=(1, 1))))
    before = update_in(trainer.handle(train_request(experiment, 2, attempt=2, counted=(1, 1))))
    assert are_equal(before, after)


def test_without_optimiser_memory_the_counted_round_makes_no_difference(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"rounds": 9})
    trainer = make_trainer(tmp_path, experiment, DATA)
    trainer.handle(train_request(experiment, 1))
    first = update_in(trainer.handle(train_request(experiment, 2, attempt=1)))
    second = update_in(trainer.handle(train_request(experiment, 2, attempt=2, counted=(1, 1))))
    assert are_equal(first, second)
    assert not list(tmp_path.rglob("memory.safetensors"))


def test_a_counted_round_that_the_site_does_not_know_is_refused(
    experiment: Experiment, trainer: Trainer
) -> None:
    assert code_in(trainer.handle(train_request(experiment, 3, counted=(2, 1)))) is RefusalCode.STALE_ROUND


def test_rounds_no_coordinator_can_ask_for_are_pruned(
    tmp_path: Path, experiment: Experiment, trainer: Trainer
) -> None:
    requests = [train_request(experiment, 1)]
    requests += [train_request(experiment, n, counted=(n - 1, 1)) for n in range(2, 7)]
    for request in requests:
        trainer.handle(request)
    kept = sorted(path.parent.name for path in tmp_path.rglob("memory.safetensors"))
    assert kept == ["train_000004_1", "train_000005_1", "train_000006_1"]
    assert code_in(trainer.handle(requests[0])) is RefusalCode.STALE_ROUND  # known, and not trained again


def test_attempts_at_one_round_do_not_pile_up(
    tmp_path: Path, experiment: Experiment, trainer: Trainer
) -> None:
    for attempt in range(1, 12):
        trainer.handle(train_request(experiment, 1, attempt=attempt))
    assert [path.parent.name for path in tmp_path.rglob("memory.safetensors")] == ["train_000001_11"]


def test_a_site_that_sat_out_rounds_can_follow_the_coordinator_one_checkpoint_back(
    experiment: Experiment, trainer: Trainer
) -> None:
    trainer.handle(train_request(experiment, 1))
    trainer.handle(train_request(experiment, 4, counted=(1, 1)))
    trainer.handle(train_request(experiment, 5, counted=(4, 1)))
    # the checkpoint of round 4 is torn: the one of round 3 says that round 1 was the last that counted
    again = trainer.handle(train_request(experiment, 4, attempt=2, counted=(1, 1)))
    assert opened(again).header.direction == "reply"


def test_a_request_that_was_long_on_its_way_does_not_cost_the_newer_state(
    experiment: Experiment, trainer: Trainer
) -> None:
    trainer.handle(train_request(experiment, 1))
    trainer.handle(train_request(experiment, 3, counted=(1, 1)))
    trainer.handle(train_request(experiment, 2, counted=(1, 1)))  # round 2 closed without this site
    reply = trainer.handle(train_request(experiment, 4, counted=(3, 1)))
    assert opened(reply).header.direction == "reply"


def test_what_a_kill_left_half_written_is_neither_believed_nor_kept(
    tmp_path: Path, experiment: Experiment, trainer: Trainer
) -> None:
    half = tmp_path / "run" / ".train_000001_1.tmp"
    half.mkdir(parents=True)
    (half / "reply.envelope").write_bytes(b"half")
    torn = tmp_path / "run" / ".train_000001_7.tmp"
    torn.mkdir()
    assert update_in(trainer.handle(train_request(experiment, 1)))
    assert not half.exists()
    assert not torn.exists()


def test_stored_memory_is_that_of_the_optimiser(
    tmp_path: Path, experiment: Experiment, trainer: Trainer
) -> None:
    trainer.handle(train_request(experiment, 1))
    trainer.handle(train_request(experiment, 2, counted=(1, 1)))
    memory = load((tmp_path / "run" / "train_000002_1" / "memory.safetensors").read_bytes())
    names = constant_update(experiment, 0.0)(opened(train_request(experiment, 1)))
    assert memory.keys() == {
        f"optimiser/{n}/{slot}" for n in names for slot in ("step", "exp_avg", "exp_avg_sq")
    }
    assert {float(value) for key, value in memory.items() if key.endswith("/step")} == {
        2.0
    }  # one step a round
