"""A device that cannot hold a batch gets it in two parts, once; the site's log says so."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import initial_weights, make_experiment, make_request, make_site_data, make_trainer, opened

from medseg_client import trainer as trainer_module
from medseg_core.errors import OutOfMemoryError
from medseg_core.federation.codec import read_tensors
from medseg_core.learning import local_training
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.networks import build_network
from medseg_core.wire.codes import RefusalCode

EXPERIMENT = make_experiment(training={"batch_size": 4, "optimiser": "sgd"})
DATA = make_site_data("north", train=4)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the network was given; it cannot hold more than `limit` of them."""
    seen: list[int] = []

    def small_device(*args: Any, **kwargs: Any) -> torch.nn.Module:
        network = build_network(*args, **kwargs)

        def forward(_: object, inputs: tuple[torch.Tensor]) -> None:
            seen.append(len(inputs[0]))
            if len(inputs[0]) > LIMIT["batch"]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        network.register_forward_pre_hook(forward)
        return network

    monkeypatch.setattr(trainer_module, "build_network", small_device)
    return seen


LIMIT = {"batch": 4}


def test_a_batch_that_does_not_fit_goes_in_two_parts_from_then_on(
    tmp_path: Path, batches: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = opened(make_trainer(tmp_path / "a", EXPERIMENT, DATA).handle(make_request(EXPERIMENT)))
    monkeypatch.setitem(LIMIT, "batch", 2)
    batches.clear()
    trainer = make_trainer(tmp_path / "b", EXPERIMENT, DATA)
    with caplog.at_level(logging.WARNING):
        halved = opened(trainer.handle(make_request(EXPERIMENT)))
    assert "Trying again with every batch in two parts" in caplog.text
    expected = read_tensors(whole.payload)
    for name, tensor in read_tensors(halved.payload).items():
        assert np.allclose(tensor, expected[name], rtol=1e-3, atol=1e-6)
    assert halved.header.counts == whole.header.counts
    assert batches[0] == 4
    batches.clear()
    weights = initial_weights(EXPERIMENT)
    request = make_request(EXPERIMENT, weights=weights, round=2, counted_round=1, counted_attempt=1)
    assert opened(trainer.handle(request)).header.direction == "reply"
    assert max(batches) == 2


def test_what_does_not_fit_in_two_parts_is_refused_by_code(
    tmp_path: Path, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMIT, "batch", 1)
    faults: list[Exception] = []
    reply = make_trainer(tmp_path, EXPERIMENT, DATA, faults=faults).handle(make_request(EXPERIMENT))
    assert opened(reply).header.code == RefusalCode.OUT_OF_MEMORY
    assert batches == [4, 2]
    assert "GiB" not in str(faults[0])


def test_a_batch_of_one_is_not_tried_again(
    tmp_path: Path, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMIT, "batch", 0)
    experiment = make_experiment(training={"batch_size": 1})
    reply = make_trainer(tmp_path, experiment, DATA, faults=[]).handle(make_request(experiment))
    assert opened(reply).header.code == RefusalCode.OUT_OF_MEMORY
    assert batches == [1]


def test_a_gpu_that_cannot_hold_a_recording_computes_each_step_before_it_halves_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[dict[str, Any]] = []
    enough = {"record": False}

    def learn(*args: Any, record: bool = True, parts: int = 1, **how: Any) -> Any:
        tried.append({"record": record, "parts": parts})
        if record is not enough["record"]:
            raise OutOfMemoryError("cuda:0", 4, (16, 16))
        return local_training.train_locally(*args, **how)

    trainer = make_trainer(tmp_path, EXPERIMENT, DATA)
    network, spec = trainer._network(EXPERIMENT)
    trainer.learn = learn
    trainer._device = torch.device("cuda")
    monkeypatch.setattr(trainer, "_network", lambda experiment: (network, spec))
    for number in (1, 2):
        trainer._fit(
            EXPERIMENT,
            DATA.train,
            context=local_training.RoundContext("north", number),
            start=initial_weights(EXPERIMENT),
            rule=LocalRule(),
            is_over=lambda: False,
        )
    assert tried == [
        {"record": True, "parts": 1},
        {"record": False, "parts": 1},
        {"record": False, "parts": 1},
    ]
    assert "Trying again without recording a step" in caplog.text
