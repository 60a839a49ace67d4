"""What a site refuses, with which code, and that nothing but the code leaves."""

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import (
    initial_weights,
    make_experiment,
    make_request,
    make_site_data,
    make_trainer,
    opened,
    site_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg_client.egress import EgressGuard
from medseg_client.site_data import SiteData
from medseg_client.trainer import Trainer
from medseg_core.config import Experiment
from medseg_core.errors import CaseError, UnusableFolderError, WireError
from medseg_core.federation.codec import encode_tensors
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import verify

EXPERIMENT = make_experiment(federation={"rounds": 3})
PRIVATE = "/data/patient-Erika-Mustermann/scan.nii.gz"


@pytest.fixture
def faults() -> list[Exception]:
    return []


@pytest.fixture
def trainer(tmp_path: Path, faults: list[Exception]) -> Trainer:
    return make_trainer(tmp_path, EXPERIMENT, make_site_data(train=1), faults=faults)


def code_of(trainer: Trainer, request: bytes) -> RefusalCode | None:
    """The code of a refusal that is signed by the site and carries nothing else."""
    reply = opened(trainer.handle(request))
    verify(reply, site_key("north").public_key())
    assert reply.header.direction == "refusal"
    assert (reply.payload, reply.header.counts, reply.header.scalars) == (b"", {}, {})
    return reply.header.code


def failing(error: Exception):
    def data_of(_: Experiment) -> SiteData:
        raise error

    return data_of


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (make_request(EXPERIMENT, site="south"), RefusalCode.FOREIGN_SITE),
        (make_request(EXPERIMENT, key=site_key("mallory")), RefusalCode.BAD_SIGNATURE),
        (make_request(EXPERIMENT)[:-1], RefusalCode.MALFORMED),
        (b"", RefusalCode.MALFORMED),
    ],
    ids=["another site", "another key", "cut short", "empty"],
)
def test_bytes_that_are_not_from_the_coordinator_for_this_site_get_no_answer(
    trainer: Trainer, request_bytes: bytes, code: RefusalCode
) -> None:
    with pytest.raises(WireError) as caught:
        trainer.handle(request_bytes)
    assert caught.value.code == code


def test_a_reply_of_the_site_itself_is_no_request(trainer: Trainer) -> None:
    reply = trainer.handle(make_request(EXPERIMENT, "describe"))
    with pytest.raises(WireError):
        trainer.handle(reply)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"experiment_sha256": "0" * 64}, RefusalCode.UNKNOWN_EXPERIMENT),
        ({"task": "another"}, RefusalCode.MALFORMED),
        ({"round": 4}, RefusalCode.BUDGET_SPENT),
        ({"round": 1_000_000}, RefusalCode.BUDGET_SPENT),
        ({"round": 0}, RefusalCode.MALFORMED),
        ({"kind": "evaluate", "split": "validation", "round": 4}, RefusalCode.BUDGET_SPENT),
        ({"kind": "publish"}, RefusalCode.MALFORMED),
    ],
)
def test_a_signed_request_beyond_what_was_agreed_is_refused(
    trainer: Trainer, tmp_path: Path, fields: dict, code: RefusalCode
) -> None:
    assert code_of(trainer, make_request(EXPERIMENT, **fields)) is code
    assert not list(tmp_path.rglob("reply.envelope"))


def without_one_tensor(weights: dict) -> dict:
    return dict(list(weights.items())[1:])


def with_another_shape(weights: dict) -> dict:
    name = next(iter(weights))
    return weights | {name: np.zeros((1, 2, 3), np.float32)}


@pytest.mark.parametrize(
    "spoil", [without_one_tensor, with_another_shape, lambda w: w | {"extra": w[next(iter(w))]}]
)
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_model_of_other_tensors_is_refused(trainer: Trainer, spoil, kind: str) -> None:
    split = "validation" if kind == "evaluate" else None
    request = make_request(EXPERIMENT, kind, split=split, weights=spoil(initial_weights(EXPERIMENT)))
    assert code_of(trainer, request) is RefusalCode.MALFORMED


def test_a_truncated_model_is_refused(trainer: Trainer) -> None:
    request = make_request(EXPERIMENT, weights=encode_tensors(initial_weights(EXPERIMENT))[:-3])
    assert code_of(trainer, request) is RefusalCode.MALFORMED


def test_a_model_of_nan_trains_to_nothing_that_leaves(trainer: Trainer, tmp_path: Path) -> None:
    poisoned = {name: np.full_like(w, np.nan) for name, w in initial_weights(EXPERIMENT).items()}
    assert code_of(trainer, make_request(EXPERIMENT, weights=poisoned)) is RefusalCode.DIVERGED
    assert not list(tmp_path.rglob("reply.envelope"))


def test_training_that_diverges_is_told_in_a_sentence_here_and_as_a_code_there(
    tmp_path: Path, faults: list[Exception]
) -> None:
    wild = make_experiment(training={"learning_rate": 1e30, "gradient_clip_norm": 0.0, "optimiser": "sgd"})
    trainer = make_trainer(tmp_path, wild, make_site_data(train=4), faults=faults)
    assert code_of(trainer, make_request(wild)) is RefusalCode.DIVERGED
    assert "round 1, site north" in str(faults[0])
    assert "learning_rate" in str(faults[0])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CaseError("case-7", f"{PRIVATE} is unreadable", "Mend it"), RefusalCode.DATA_FAULT),
        (UnusableFolderError(Path(PRIVATE), "disk full"), RefusalCode.INTERNAL),
        (ValueError(PRIVATE), RefusalCode.INTERNAL),
        (MemoryError(PRIVATE), RefusalCode.OUT_OF_MEMORY),
        (torch.OutOfMemoryError(PRIVATE), RefusalCode.OUT_OF_MEMORY),
        (RuntimeError(f"DefaultCPUAllocator: can't allocate memory {PRIVATE}"), RefusalCode.OUT_OF_MEMORY),
    ],
)
@pytest.mark.parametrize("kind", ["describe", "train", "evaluate"])
def test_whatever_breaks_a_code_leaves_and_the_site_keeps_the_words(
    tmp_path: Path, faults: list[Exception], error: Exception, code: RefusalCode, kind: str
) -> None:
    trainer = make_trainer(tmp_path, EXPERIMENT, failing(error), faults=faults)
    request = make_request(EXPERIMENT, kind, split="validation" if kind == "evaluate" else None)
    assert code_of(trainer, request) is code
    assert b"Mustermann" not in trainer.handle(request)
    assert len(faults) == 2


def test_a_fault_goes_to_the_log_where_nobody_listens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    identity = make_trainer(tmp_path, EXPERIMENT, make_site_data())._identity
    trainer = Trainer(
        identity,
        make_trainer(tmp_path, EXPERIMENT, make_site_data())._state,
        EgressGuard(site_key("north")),
        approved={},
        data_of=failing(ValueError()),
        device=torch.device("cpu"),
    )
    with caplog.at_level(logging.ERROR):
        trainer.handle(make_request(EXPERIMENT))
    assert "not approved" in caplog.text


def test_state_that_cannot_be_written_is_a_refusal(tmp_path: Path, faults: list[Exception]) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    trainer = make_trainer(tmp_path / "state", EXPERIMENT, make_site_data(train=1), faults=faults)
    assert code_of(trainer, make_request(EXPERIMENT, "describe")) is RefusalCode.INTERNAL
    assert isinstance(faults[0], UnusableFolderError)


def test_no_case_patient_or_path_stands_in_any_byte_that_leaves(trainer: Trainer) -> None:
    requests = [
        make_request(EXPERIMENT, "describe"),
        make_request(EXPERIMENT, "train"),
        make_request(EXPERIMENT, "evaluate", split="validation"),
        make_request(EXPERIMENT, "evaluate", split="test"),
    ]
    for reply in map(trainer.handle, requests):
        assert opened(reply).header.direction == "reply"
        for secret in (b"patient-of", b"north-t", b"north-v", b"/images"):
            assert secret not in reply


def test_the_test_cases_are_scored_for_one_model_of_a_run(trainer: Trainer) -> None:
    chosen, other = initial_weights(EXPERIMENT, seed=1), initial_weights(EXPERIMENT, seed=2)

    def ask(weights: dict, attempt: int) -> bytes:
        return make_request(EXPERIMENT, "evaluate", split="test", weights=weights, attempt=attempt)

    first = opened(trainer.handle(ask(chosen, 1)))
    assert first.header.direction == "reply"
    assert code_of(trainer, ask(other, 2)) is RefusalCode.BUDGET_SPENT
    again = opened(
        trainer.handle(ask(chosen, 3))
    )  # a coordinator that crashed may ask for the same once more
    assert again.header.scalars == first.header.scalars


def test_refused_requests_use_no_test_budget(trainer: Trainer) -> None:
    broken = make_request(EXPERIMENT, "evaluate", split="test", weights=b"broken")
    assert code_of(trainer, broken) is RefusalCode.MALFORMED
    whole = make_request(EXPERIMENT, "evaluate", split="test", attempt=2)
    assert opened(trainer.handle(whole)).header.direction == "reply"


@pytest.mark.parametrize("run", ["../../etc", "..", "a/b", ".hidden", "a\\b", "run\n", "x" * 65, ""])
def test_a_run_name_that_is_a_path_is_never_signed_or_read(
    trainer: Trainer, run: str, tmp_path: Path
) -> None:
    request = make_request(EXPERIMENT, run="r")
    with pytest.raises(ValueError):
        make_request(EXPERIMENT, run=run)
    forged = request.replace(b'"run":"r"', b'"run":"%b"' % run.encode())
    with pytest.raises(WireError):
        trainer.handle(forged)
    assert not list(tmp_path.iterdir())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_never_get_an_answer(trainer: Trainer, data: st.DataObject) -> None:
    request = bytearray(make_request(EXPERIMENT, "describe"))
    at = data.draw(st.integers(0, len(request) - 1))
    request[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        trainer.handle(bytes(request))


def test_the_same_request_twice_at_once_is_trained_once(tmp_path: Path) -> None:
    calls, data = [], make_site_data(train=1)

    def data_of(_: Experiment) -> SiteData:
        calls.append(1)
        return data

    trainer = make_trainer(tmp_path, EXPERIMENT, data_of)
    request, replies, told = make_request(EXPERIMENT), [], []

    def ask() -> None:
        try:
            replies.append(trainer.handle(request))
        except WireError as error:
            told.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(replies)) == 1
    assert set(told) <= {RefusalCode.WORKING}


def test_a_model_that_is_not_here_is_asked_for_whole_which_is_a_line_in_the_log_and_no_fault(
    tmp_path: Path, faults: list[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    experiment = make_experiment(codec={"name": "int8"})
    trainer = make_trainer(tmp_path, experiment, make_site_data("north"), faults=faults)
    request = make_request(experiment, weights=encode_tensors({}), round=2, model="a" * 64, base="a" * 64)

    with caplog.at_level(logging.INFO):
        answer = opened(trainer.handle(request))

    assert answer.header.code == RefusalCode.MODEL_NOT_HELD
    assert not faults
    assert any("is not here" in record.getMessage() for record in caplog.records)
