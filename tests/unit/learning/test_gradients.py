"""Gradients that a GPU records and replays: where it does, and that they are the same to the bit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from builders import initial_weights, make_case, make_experiment
from torch import nn

from medseg_core.cohort.patches import Batch, batches
from medseg_core.config import Experiment
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.learning import gradients
from medseg_core.learning.gradients import Gradients
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.local_training import RoundContext, train_locally
from medseg_core.learning.losses import build_loss, mark_unknown
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import get_weights

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA device records, nothing else")
CASES = [make_case(f"case-{n}", (24, 24)) for n in range(13)]  # the last batch of a pass holds one


def train(experiment: Experiment, device: str) -> Mapping[str, npt.NDArray[np.float32]]:
    network = build_network(experiment.task, experiment.model, seed=0).to(device)
    drift = {
        name: np.full(value.shape, 0.01, np.float32) for name, value in initial_weights(experiment).items()
    }
    train_locally(
        network,
        CASES,
        experiment,
        context=RoundContext("north", 1),
        start=initial_weights(experiment),
        rule=build_algorithm(experiment).local_rule({"control": drift}, {}),
    )
    return get_weights(network)


def count_replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the size of each batch that is replayed."""
    sizes, replay = list[int](), gradients._Recording.replay

    def noted(recording: gradients._Recording, batch: Batch) -> torch.Tensor:
        sizes.append(len(batch.images))
        return replay(recording, batch)

    monkeypatch.setattr(gradients._Recording, "replay", noted)
    return sizes


@needs_cuda
@pytest.mark.parametrize(
    ("federation", "model"),
    [
        ({}, {}),
        ({}, {"normalisation": "batch"}),
        ({"algorithm": "fedprox", "proximal_weight": 0.1}, {}),
        ({"algorithm": "scaffold"}, {}),
        ({"algorithm": "fedrep"}, {}),
    ],
)
def test_replayed_steps_give_the_weights_of_computed_ones(
    federation: dict[str, Any], model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    optimiser = "sgd" if federation.get("algorithm") == "scaffold" else "adamw"
    experiment = make_experiment(
        federation={"local_epochs": 6, **federation},
        model=model,
        training={"batch_size": 3, "patch_size": (16, 16), "optimiser": optimiser, "augmentation": {}},
    )
    replayed = count_replays(monkeypatch)
    weights = train(experiment, "cuda")
    assert set(replayed) == {3}
    assert len(replayed) >= 6 * 4
    monkeypatch.setattr(gradients, "WORTH_RECORDING", 10**9)
    replayed.clear()
    computed = train(experiment, "cuda")
    assert not replayed
    assert all(np.array_equal(weights[name], computed[name]) for name in computed)


@needs_cuda
@pytest.mark.parametrize(
    "changes",
    [{"federation": {"local_epochs": 1}}, {"model": {"dropout": 0.1}}, {"federation": {"algorithm": "moon"}}],
)
def test_what_is_no_equal_step_each_time_is_computed(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes["federation"] = {"local_epochs": 6} | changes.get("federation", {})
    replayed = count_replays(monkeypatch)
    train(make_experiment(training={"batch_size": 3, "patch_size": (16, 16)}, **changes), "cuda")
    assert not replayed


@needs_cuda
def test_a_network_that_cannot_be_recorded_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waits(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * (2.0 if images.max().item() > 0 else 1.0)

    replayed = count_replays(monkeypatch)
    network = Waits(1, 2, 1).cuda()
    ours = Gradients(network, build_loss("dice_ce", 2), LocalRule(), parts=1, in_bf16=False)
    ours.record(100)
    batch = Batch(
        torch.rand(2, 1, 8, 8, device="cuda"),
        torch.ones(2, 8, 8, dtype=torch.uint8, device="cuda"),
        ((), ()),
    )
    for _ in range(2):
        assert torch.isfinite(ours.of(batch, mark_unknown(batch.not_annotated, 2)))
    assert network.weight.grad is not None
    assert not replayed


@needs_cuda
def test_augmentation_of_a_batch_on_a_gpu_is_that_of_its_samples_on_a_cpu() -> None:
    training = make_experiment(
        training={
            "batch_size": 5,
            "patch_size": (16, 16),
            "augmentation": {"flip": (True, True), "elastic": 0.3},
        }
    ).training

    def drawn(device: str) -> list[Batch]:
        return list(
            batches(
                CASES,
                training,
                seed=0,
                site="north",
                round_number=1,
                passes=2,
                device=torch.device(device),
            )
        )

    for here, there in zip(drawn("cpu"), drawn("cuda"), strict=True):
        torch.testing.assert_close(there.images.cpu(), here.images, atol=1e-3, rtol=1e-3)
        assert (there.labels.cpu() != here.labels).float().mean() < 0.01  # nearest, at ties


def test_a_cpu_records_nothing() -> None:
    network = nn.Conv2d(1, 2, 1)
    ours = Gradients(network, build_loss("dice_ce", 2), LocalRule(), parts=1, in_bf16=False)
    ours.record(100)
    batch = Batch(torch.rand(2, 1, 8, 8), torch.ones(2, 8, 8, dtype=torch.uint8), ((), ()))
    first, second = (ours.of(batch, mark_unknown(batch.not_annotated, 2)) for _ in range(2))
    assert torch.equal(first, second)
    assert ours._recording is None
