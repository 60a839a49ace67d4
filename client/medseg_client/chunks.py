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
    """The data of all chunks. Raises WireError as `gather` does."""
    data = bytearray()
    gather(chunks, data, max_bytes=max_bytes)
    return bytes(data)


def gather(chunks: Iterable[Chunk | bytes], data: bytearray, *, max_bytes: int) -> None:
    """Add the data of all chunks to `data`. Raises WireError (too_large) as soon as it exceeds `max_bytes`.

    Bytes among them are what is no chunk: malformed. `data` then holds what came, with them.
    """
    for chunk in chunks:
        data += chunk if isinstance(chunk, bytes) else chunk.data
        if isinstance(chunk, bytes):
            raise WireError(RefusalCode.MALFORMED, f"{len(chunk)} bytes that are no chunk")
        if len(data) > max_bytes:
            raise WireError(RefusalCode.TOO_LARGE, f"more than {max_bytes} bytes")
