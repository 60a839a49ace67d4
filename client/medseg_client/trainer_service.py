"""The trainer behind a unix socket: a gRPC service, bounded in size, number and time before anything is parsed."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import grpc
from google.protobuf.message import DecodeError

from medseg_client.chunks import MESSAGE_BYTES_MAX, cut, gather
from medseg_client.protocol.trainer_pb2 import DESCRIPTOR, Chunk
from medseg_client.trainer import MAX_REQUEST_BYTES, Trainer
from medseg_core.errors import SocketPathError, UnusableFolderError, WireError
from medseg_core.learning.device import return_freed_memory
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope
from medseg_core.wire.header import Kind

CALLS_AT_ONCE = 4  # one is answered, the others wait for it
CALLS_MAX = 8  # more are turned away
DEADLINE_S_MAX = 7 * 24 * 3600.0
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un on Linux, with its final zero


@contextmanager
def serving(trainer: Trainer, socket: Path) -> Iterator[None]:
    """Answer calls on `socket` while inside, from the owner and the group of its folder: nobody else can enter that.

    A socket that an earlier process left behind is replaced: whoever calls holds the site's folder for itself.
    Raises SocketPathError, UnusableFolderError.
    """
    if len(str(socket).encode()) > SOCKET_PATH_BYTES_MAX:
        raise SocketPathError(socket, SOCKET_PATH_BYTES_MAX)
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    server = grpc.server(
        ThreadPoolExecutor(CALLS_AT_ONCE, "trainer"),
        options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)],
        maximum_concurrent_rpcs=CALLS_MAX,
    )
    server.add_generic_rpc_handlers((_service(trainer),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    _open_to_group(socket)
    try:
        yield
    finally:
        server.stop(grace=None).wait()


def _open_to_group(socket: Path) -> None:
    """The group of the socket's folder may write to it, which is what connecting asks for."""
    folder = socket.parent.stat()
    try:
        if folder.st_uid == os.geteuid():
            socket.parent.chmod(0o2750)
        os.chown(socket, -1, folder.st_gid)
        socket.chmod(0o660)
    except OSError as error:
        raise UnusableFolderError(socket.parent, error.strerror or type(error).__name__) from error


def _service(trainer: Trainer) -> grpc.GenericRpcHandler:
    """One call a kind of request. What is no chunk reaches us as it came: grpcio would log a traceback of it."""
    (service,) = DESCRIPTOR.services_by_name.values()
    calls = {
        method.name: grpc.stream_stream_rpc_method_handler(
            partial(_answer, trainer, method.name.lower()),
            request_deserializer=_chunk_or_bytes,
            response_serializer=Chunk.SerializeToString,
        )
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, calls)


def _chunk_or_bytes(data: bytes) -> Chunk | bytes:
    try:
        chunk: Chunk = Chunk.FromString(data)
    except DecodeError:
        return data
    return chunk


def _answer(
    trainer: Trainer, kind: Kind, chunks: Iterable[Chunk | bytes], context: grpc.ServicerContext
) -> Iterator[Chunk]:
    """The reply in chunks; computing ends when the caller's deadline has passed.

    What is no request for this trainer ends with a refusal code as the status text, and a note of it.
    """
    received = bytearray()
    try:
        is_over = _over_at(context.time_remaining())
        gather(chunks, received, max_bytes=MAX_REQUEST_BYTES)
        _require_kind(received, kind)
        reply = trainer.handle(received, is_over=is_over)
    except WireError as error:
        trainer.turn_away(received, error)
        _refuse(context, RefusalCode(error.code))
    finally:
        return_freed_memory()
    yield from cut(reply)


def _require_kind(request_bytes: bytearray, kind: Kind) -> None:
    """The request is of the kind that the call is for. Raises WireError."""
    if (found := Envelope.from_bytes(request_bytes, max_bytes=MAX_REQUEST_BYTES).header.kind) != kind:
        raise WireError(RefusalCode.MALFORMED, f"a request of kind {found} to {kind}")


def _over_at(seconds_left: float | None) -> Callable[[], bool]:
    """Whether the caller's time is up. Raises WireError for a caller without a sensible deadline."""
    if seconds_left is None or not 0 <= seconds_left <= DEADLINE_S_MAX:
        raise WireError(RefusalCode.DEADLINE, f"a call with {seconds_left} s left")
    end = time.monotonic() + seconds_left
    return lambda: time.monotonic() > end


def _refuse(context: grpc.ServicerContext, code: RefusalCode) -> NoReturn:
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(code))
    raise AssertionError("abort raises")
