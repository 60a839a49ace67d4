"""The way from the network side to the trainer: a real gRPC service on a real unix socket."""

import os
import socket as sockets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from builders import make_experiment, make_request, make_site_data, make_trainer, opened

from medseg_client.chunks import CHUNK_BYTES, MESSAGE_BYTES_MAX, cut, join
from medseg_client.protocol.trainer_pb2 import Chunk
from medseg_client.protocol.trainer_pb2_grpc import TrainerStub
from medseg_client.trainer_service import serving
from medseg_client.trainer_socket import ask_trainer
from medseg_core.errors import SocketPathError, WireError
from medseg_core.wire.codes import RefusalCode

LONG_S = 60.0
EXPERIMENT = make_experiment(federation={"local_epochs": 1})
ENDLESS = make_experiment(federation={"local_epochs": 100_000})


@pytest.fixture
def faults() -> list[Exception]:
    return []


@pytest.fixture
def socket(tmp_path: Path, faults: list[Exception]) -> Iterator[Path]:
    """A trainer that answers."""
    trainer = make_trainer(tmp_path / "state", EXPERIMENT, make_site_data("north"), faults=faults)
    with serving(trainer, tmp_path / "run" / "trainer.sock"):
        yield tmp_path / "run" / "trainer.sock"


def code_of(socket: Path, request: bytes, deadline_s: float = LONG_S) -> str:
    """The code that a call ends with."""
    with pytest.raises(WireError) as caught:
        ask_trainer(socket, request, deadline_s=deadline_s)
    return caught.value.code


def status_of(socket: Path, method: str, chunks: list[Chunk], deadline_s: float | None = LONG_S) -> str:
    """Text of the status that a bare call ends with."""
    with grpc.insecure_channel(f"unix:{socket}") as channel, pytest.raises(grpc.RpcError) as caught:
        list(getattr(TrainerStub(channel), method)(iter(chunks), timeout=deadline_s))
    return str(caught.value.details())


def test_a_request_gets_the_trainers_own_bytes(socket: Path) -> None:
    request = make_request(EXPERIMENT)
    reply = ask_trainer(socket, request, deadline_s=LONG_S)
    assert opened(reply).header.in_reply_to == opened(request).header.nonce
    assert ask_trainer(socket, request, deadline_s=LONG_S) == reply  # a repeat, byte for byte


def test_every_kind_has_its_call(socket: Path) -> None:
    described = opened(ask_trainer(socket, make_request(EXPERIMENT, "describe"), deadline_s=LONG_S))
    assert described.header.counts["train_cases"] == 3
    scored = make_request(EXPERIMENT, "evaluate", split="validation")
    assert "dice" in opened(ask_trainer(socket, scored, deadline_s=LONG_S)).header.scalars


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_chunks_join_to_what_was_cut(length: int) -> None:
    data = os.urandom(length)
    chunks = list(cut(data))
    assert max(chunk.ByteSize() for chunk in chunks) <= MESSAGE_BYTES_MAX
    assert join(chunks, max_bytes=length) == data


def test_chunks_are_refused_as_soon_as_they_are_too_many() -> None:
    taken = 0

    def endless() -> Iterator[Chunk]:
        nonlocal taken
        while True:
            taken += 1
            yield Chunk(data=bytes(10))

    with pytest.raises(WireError, match="more than 95 bytes"):
        join(endless(), max_bytes=95)
    assert taken == 10


def test_a_trainer_is_away_where_there_is_no_socket_of_ours(tmp_path: Path) -> None:
    request = make_request(EXPERIMENT)
    assert code_of(tmp_path / "none.sock", request) == RefusalCode.TRAINER_AWAY

    (tmp_path / "file.sock").write_text("")
    assert code_of(tmp_path / "file.sock", request) == RefusalCode.TRAINER_AWAY

    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    assert code_of(tmp_path / "dead.sock", request) == RefusalCode.TRAINER_AWAY


def test_a_socket_that_anybody_could_have_put_there_is_not_used(socket: Path) -> None:
    socket.parent.chmod(0o777)
    assert code_of(socket, make_request(EXPERIMENT)) == RefusalCode.TRAINER_AWAY


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_foreign_socket_is_not_used(socket: Path) -> None:
    os.chown(socket, 65534, -1)
    assert code_of(socket, make_request(EXPERIMENT)) == RefusalCode.TRAINER_AWAY


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "state", EXPERIMENT, make_site_data("north"))
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "t.sock"))
    with serving(trainer, tmp_path / "t.sock"):
        assert ask_trainer(tmp_path / "t.sock", make_request(EXPERIMENT), deadline_s=LONG_S)


def test_a_path_too_long_for_a_socket_is_a_sentence(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "state", EXPERIMENT, make_site_data("north"))
    with (
        pytest.raises(SocketPathError, match="Choose a folder nearer to the root"),
        serving(trainer, tmp_path / ("x" * 110) / "trainer.sock"),
    ):
        pass


def test_what_is_no_request_gets_a_code_and_nothing_else(socket: Path, faults: list[Exception]) -> None:
    assert status_of(socket, "Train", [Chunk(data=b"hello")]) == "malformed"
    assert status_of(socket, "Train", []) == "malformed"
    assert status_of(socket, "Train", list(cut(make_request(EXPERIMENT, "describe")))) == "malformed"
    assert status_of(socket, "Train", list(cut(make_request(EXPERIMENT, site="south")))) == "foreign_site"
    assert len(faults) == 4  # the detail is for the site's own log


def test_a_chunk_larger_than_agreed_is_turned_away(socket: Path) -> None:
    assert "larger than max" in status_of(socket, "Train", [Chunk(data=bytes(2 * CHUNK_BYTES))])


@pytest.mark.parametrize("deadline_s", [None, 1e7])
def test_a_call_without_a_sensible_deadline_is_refused(socket: Path, deadline_s: float | None) -> None:
    assert status_of(socket, "Train", list(cut(make_request(EXPERIMENT))), deadline_s) == "deadline"


def test_the_trainer_stops_computing_when_the_round_is_over(tmp_path: Path) -> None:
    faults: list[Exception] = []
    trainer = make_trainer(tmp_path / "state", ENDLESS, make_site_data("north"), faults=faults)
    with serving(trainer, tmp_path / "t.sock"):
        code: str | None
        try:  # both look at the clock: the caller gives up, or gets the refusal of a trainer that looked first
            code = opened(ask_trainer(tmp_path / "t.sock", make_request(ENDLESS), deadline_s=2.0)).header.code
        except WireError as error:
            code = error.code
        assert code in (RefusalCode.DEADLINE, RefusalCode.STALE_ROUND)
        began = time.monotonic()
        while not faults and time.monotonic() - began < LONG_S:
            time.sleep(0.05)
    assert "training was stopped" in str(faults[0])


def test_a_later_attempt_ends_the_training_of_an_earlier_one(tmp_path: Path) -> None:
    """A coordinator that was killed asks anew, while the site still trains for the old request."""
    faults: list[Exception] = []
    trainer = make_trainer(tmp_path / "state", ENDLESS, make_site_data("north"), faults=faults)
    earlier = threading.Thread(target=trainer.handle, args=(make_request(ENDLESS, attempt=1),), daemon=True)
    earlier.start()
    trainer.handle(make_request(ENDLESS, attempt=2), is_over=lambda: True)
    earlier.join(LONG_S)
    assert not earlier.is_alive()
    assert len(faults) == 2


def test_who_repeats_a_request_too_early_is_told_that_it_is_worked_on(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "state", ENDLESS, make_site_data("north"), faults=[])
    request, started, stop = make_request(ENDLESS), threading.Event(), threading.Event()

    def is_over() -> bool:
        started.set()
        return stop.is_set()

    with serving(trainer, tmp_path / "t.sock"):
        first = threading.Thread(target=trainer.handle, args=(request,), kwargs={"is_over": is_over})
        first.start()
        assert started.wait(LONG_S)
        assert code_of(tmp_path / "t.sock", request) == RefusalCode.WORKING
        stop.set()
        first.join(LONG_S)
        assert not first.is_alive()
