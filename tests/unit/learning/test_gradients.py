"""Gradients that a GPU records and replays: where it does, and that they are the same to the bit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
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
    replayed = count_replays(monkeypatch)
    alike = {"training": {"batch_size": 3, "patch_size": (16, 16)}, "federation": {"local_epochs": 6}}
    together = {name: alike.get(name, {}) | changes.get(name, {}) for name in {*alike, *changes}}
    train(make_experiment(**together), "cuda")
    assert not replayed


@needs_cuda
def test_a_network_that_cannot_be_recorded_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waits(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * (2.0 if images.max().item() > 0 else 1.0)

    replayed = count_replays(monkeypatch)
    network = Waits(1, 2, 1).cuda()
    ours = Gradients(network, build_loss("dice_ce", 2), LocalRule(), parts=1, in_bf16=False)
    ours.allow_recording(100, 2)
    batch = Batch(
        torch.rand(2, 1, 8, 8, device="cuda"),
        torch.ones(2, 8, 8, dtype=torch.uint8, device="cuda"),
        ((), ()),
    )
    for _ in range(2):
        assert torch.isfinite(ours.replace(batch, mark_unknown(batch.not_annotated, 2)))
    assert network.weight.grad is not None
    assert not replayed
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    another = nn.Conv2d(1, 2, 1).cuda()
    theirs = Gradients(another, build_loss("dice_ce", 2), LocalRule(), parts=1, in_bf16=False)
    theirs.allow_recording(100, 2)
    theirs.replace(batch, mark_unknown(batch.not_annotated, 2))
    assert replayed == [2]


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
    ours.allow_recording(100, 2)
    batch = Batch(torch.rand(2, 1, 8, 8), torch.ones(2, 8, 8, dtype=torch.uint8), ((), ()))
    first, second = (ours.replace(batch, mark_unknown(batch.not_annotated, 2)) for _ in range(2))
    assert torch.equal(first, second)
    assert ours._recording is None


class PretendedGraph:
    """Replays by computing once more, into the tensors of the recording."""

    def __init__(self, ours: Gradients) -> None:
        self._ours, self.n_replays = ours, 0

    def replay(self) -> None:
        recording = self._ours._recording
        assert recording is not None
        loss = self._ours._compute(recording._batch, mark_unknown(recording._batch.not_annotated, 3))
        recording._loss.copy_(loss)
        for parameter, gradient in recording._gradients:
            assert gradient is not None
            assert parameter.grad is not None
            gradient.copy_(parameter.grad)
        self.n_replays += 1


def pretend_cuda(ours: Gradients, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> PretendedGraph:
    """Lets a CPU record: what is written around the recording runs as it does on a GPU."""

    @contextmanager
    def recording(*_: object, **__: object) -> Iterator[None]:
        if fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    graph, stream = PretendedGraph(ours), SimpleNamespace(wait_stream=lambda other: None)
    pretended: dict[str, Callable[..., object]] = {
        "CUDAGraph": lambda: graph,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "set_stream": lambda stream: None,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
        "graph": recording,
    }
    for name, pretence in pretended.items():
        monkeypatch.setattr(torch.cuda, name, pretence)
    return graph


def random_batch(n: int, not_annotated: tuple[int, ...] = ()) -> Batch:
    labels = torch.randint(0, 3, (n, 8, 8), dtype=torch.uint8)
    return Batch(torch.rand(n, 1, 8, 8), labels, (not_annotated,) * n)


def normalising_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1))


def steps(network: nn.Module, ours: Gradients, batches: Sequence[Batch]) -> list[torch.Tensor]:
    """Losses and weights of a few steps, and the buffers at their end."""
    optimiser, seen = torch.optim.SGD(network.parameters(), lr=0.1), list[torch.Tensor]()
    for batch in batches:
        seen.append(ours.replace(batch, mark_unknown(batch.not_annotated, 3)))
        optimiser.step()
    return [*seen, *(tensor.clone() for tensor in network.state_dict().values())]


def test_what_surrounds_a_recording_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [random_batch(3), random_batch(3), random_batch(1), random_batch(3, (1,)), random_batch(3)]
    computed = normalising_network()
    loss_of = build_loss("dice_ce", 3)
    expected = steps(computed, Gradients(computed, loss_of, LocalRule(), parts=1, in_bf16=False), batches)
    network = normalising_network()
    ours = Gradients(network, loss_of, LocalRule(), parts=1, in_bf16=False)
    ours._to_record = 3
    graph = pretend_cuda(ours, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(steps(network, ours, batches), expected, strict=True))
    assert graph.n_replays == 3  # not of the smaller batch, nor of partial labels
    ours.close()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_recording_that_fails_leaves_no_trace_and_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, loss_of = normalising_network(), build_loss("dice_ce", 3)
    batches = [random_batch(3), random_batch(3)]
    computed = normalising_network()
    expected = steps(computed, Gradients(computed, loss_of, LocalRule(), parts=1, in_bf16=False), batches)
    ours = Gradients(network, loss_of, LocalRule(), parts=1, in_bf16=False)
    ours._to_record = 3
    pretend_cuda(ours, monkeypatch, fails=True)
    assert all(torch.equal(a, b) for a, b in zip(steps(network, ours, batches), expected, strict=True))
    assert network in gradients._NOT_RECORDABLE
