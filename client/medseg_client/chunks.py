"""Bytes as a stream of small messages, and back; bounded before anything is looked at."""

from collections.abc import Iterable, Iterator

from medseg_client.protocol.trainer_pb2 import Chunk
from medseg_core.errors import WireError
from medseg_core.wire.codes import RefusalCode

CHUNK_BYTES = 1 << 20
MESSAGE_BYTES_MAX = CHUNK_BYTES + 1024  # of a chunk with its frame


def cut(data: bytes) -> Iterator[Chunk]:
    """`data` in chunks of CHUNK_BYTES; one empty chunk for no data."""
    view = memoryview(data)
    for start in range(0, max(len(data), 1), CHUNK_BYTES):
        yield Chunk(data=bytes(view[start : start + CHUNK_BYTES]))


def join(chunks: Iterable[Chunk | bytes], *, max_bytes: int) -> bytes:
    """The data of all chunks. Raises WireError (too_large) as soon as they exceed `max_bytes`.

    Bytes among them are what is no chunk: malformed.
    """
    data = bytearray()
    for chunk in chunks:
        if isinstance(chunk, bytes):
            raise WireError(RefusalCode.MALFORMED, f"{len(chunk)} bytes that are no chunk")
        data += chunk.data
        if len(data) > max_bytes:
            raise WireError(RefusalCode.TOO_LARGE, f"more than {max_bytes} bytes")
    return bytes(data)
