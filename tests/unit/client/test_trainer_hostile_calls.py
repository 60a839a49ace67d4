"""Whatever comes through the socket: a code and nothing else, no traceback, and the next honest call is answered."""

import logging
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from builders import make_experiment, make_request, make_site_data, make_trainer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg_client.chunks import CHUNK_BYTES, cut
from medseg_client.protocol.trainer_pb2 import Chunk
from medseg_client.trainer_service import serving
from medseg_client.trainer_socket import ask_trainer
from medseg_core.wire.codes import RefusalCode

EXPERIMENT = make_experiment()
METHODS = ("Describe", "Train", "Evaluate", "Publish")
LONG_S = 30.0
HONEST = make_request(EXPERIMENT)


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("s")
    trainer = make_trainer(folder / "state", EXPERIMENT, make_site_data("north"), faults=[])
    with serving(trainer, folder / "t.sock"):
        yield folder / "t.sock"


def said_to(socket: Path, method: str, messages: list[bytes]) -> tuple[grpc.StatusCode, str]:
    """Status of a call with raw messages, protobuf or not."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        call = channel.stream_stream(f"/medseg.trainer.v1.Trainer/{method}")(iter(messages), timeout=LONG_S)
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            return error.code(), str(error.details())
        return call.code(), str(call.details())


framed = st.binary(max_size=300).map(lambda data: Chunk(data=data).SerializeToString())
cut_short = st.integers(0, len(HONEST)).map(lambda n: [c.SerializeToString() for c in cut(HONEST[:n])])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(METHODS),
    messages=st.one_of(
        st.lists(st.binary(max_size=300), max_size=5), st.lists(framed, max_size=5), cut_short
    ),
)
def test_malformed_calls_end_with_a_code(
    socket: Path, caplog: pytest.LogCaptureFixture, method: str, messages: list[bytes]
) -> None:
    whole = method == "Train" and b"".join(Chunk.FromString(m).data for m in messages if _parses(m)) == HONEST
    code, text = said_to(socket, method, messages)
    if not whole:
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert text in set(RefusalCode)
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []


def test_an_honest_call_is_answered_afterwards(socket: Path) -> None:
    for message in (b"\xff" * 10, bytes(CHUNK_BYTES + 10), b""):
        said_to(socket, "Train", [message])
    assert ask_trainer(socket, HONEST, deadline_s=LONG_S)


def test_a_method_that_is_not_there_is_no_way_in(socket: Path) -> None:
    assert said_to(socket, "Shell", [b""])[0] == grpc.StatusCode.UNIMPLEMENTED


def _parses(message: bytes) -> bool:
    try:
        Chunk.FromString(message)
    except Exception:
        return False
    return True
