"""The network side's way to the trainer: one call, one reply, or a code why there is none. Imports no torch."""

import stat
from pathlib import Path

import grpc

from medseg_client.chunks import MESSAGE_BYTES_MAX, cut, join
from medseg_client.protocol.trainer_pb2_grpc import TrainerStub
from medseg_core.errors import WireError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope

ENVELOPE_BYTES_MAX = 2**31


def ask_trainer(socket: Path, request: bytes, *, deadline_s: float) -> bytes:
    """The trainer's reply to the bytes of a request, within `deadline_s`.

    Raises WireError: the request is no envelope, the trainer refused it, is away, or was too slow.
    """
    kind = Envelope.from_bytes(request, max_bytes=ENVELOPE_BYTES_MAX).header.kind
    _require_own_socket(socket)
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"unix:{socket}", options) as channel:
        call = getattr(TrainerStub(channel), kind.capitalize())  # type: ignore[no-untyped-call]
        try:
            return join(call(cut(request), timeout=deadline_s), max_bytes=ENVELOPE_BYTES_MAX)
        except grpc.RpcError as error:
            raise WireError(_code_in(error), f"trainer at {socket}: {error.code().name}") from None


def _require_own_socket(socket: Path) -> None:
    """The socket is one, and belongs to this user or to the owner of its folder. Raises WireError."""
    try:
        found, folder = socket.lstat(), socket.parent.stat()
    except OSError as error:
        raise WireError(RefusalCode.TRAINER_AWAY, f"{socket}: {error.strerror}") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise WireError(RefusalCode.TRAINER_AWAY, f"{socket} is not a socket")
    if found.st_uid != folder.st_uid:
        raise WireError(RefusalCode.TRAINER_AWAY, f"{socket} belongs to another user than its folder")
    if folder.st_mode & stat.S_IWOTH:
        raise WireError(RefusalCode.TRAINER_AWAY, f"{socket.parent} can be written by everybody")


def _code_in(error: grpc.RpcError) -> RefusalCode:
    """What may be told of a failed call: the code that the trainer gave, or one for the kind of failure."""
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return RefusalCode.DEADLINE
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.RESOURCE_EXHAUSTED | grpc.StatusCode.CANCELLED:
            return RefusalCode.TRAINER_AWAY
    try:
        return RefusalCode(error.details())
    except ValueError:
        return RefusalCode.INTERNAL
