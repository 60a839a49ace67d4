"""The network side of a site: Flower's ClientApp, which hands envelopes to the trainer's socket and replies back.

It has no data, no GPU and no opinion: what it is given it passes on, and what it cannot pass on becomes a code.
"""

import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.message import array as flower_array
from flwr.clientapp import ClientApp

from medseg_client.trainer_socket import ask_trainer
from medseg_core.errors import WireError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import split_payload
from medseg_core.wire.versions import SPOKEN

SOCKET_KEY = "trainer-socket"  # in the node's configuration, which is the site's own
CHUNK_SETTING = "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"  # Flower reads it from the environment, once
CHUNKS = 24  # of a reply, unless they would be smaller or larger than
CHUNK_LEAST, CHUNK_MOST = 512 * 1024, 5 * 1024 * 1024  # bytes; the second is Flower's own

app = ClientApp()


@app.query()
def relay(message: Message, context: Context) -> Message:
    """The trainer's reply to the envelope in `message`, or the code why there is none. Never raises."""
    try:
        request, seconds_left = _received(message)
        reply = ask_trainer(Path(str(context.node_config[SOCKET_KEY])), request, deadline_s=seconds_left)
        content = carried(reply)
    except WireError as error:
        content = _code(RefusalCode(error.code), list(SPOKEN))
    except Exception:  # the edge of the site: whatever happened, no text of it leaves
        content = _code(RefusalCode.INTERNAL, [])
    return Message(content, reply_to=message)


def _received(message: Message) -> tuple[bytes, float]:
    """The envelope in a message, and the seconds that are left to answer it. Raises WireError."""
    try:
        arrays = message.content.array_records["envelope"]
        request = arrays["head"].data + arrays["payload"].data
    except (KeyError, TypeError):
        raise WireError(RefusalCode.MALFORMED, "no envelope in the message") from None
    seconds_left = message.metadata.created_at + message.metadata.ttl - time.time()
    if seconds_left <= 0:
        raise WireError(RefusalCode.DEADLINE, "the message came too late")
    return request, seconds_left


def carried(reply: bytes) -> RecordDict:
    """The message that holds an envelope. This process, which has one reply, cuts what it sends for it from now on."""
    head, payload = split_payload(reply)
    vars(flower_array)[CHUNK_SETTING] = chunk_size(len(payload))
    arrays = {"head": _packed(head), "payload": _packed(payload)}
    return RecordDict({"envelope": ArrayRecord(arrays), "relay": ConfigRecord({"code": ""})})


def chunk_size(n_bytes: int) -> int:
    """Bytes of the pieces in which Flower sends a payload of so many.

    Each piece takes the superlink some tens of milliseconds, and must pass the uplink within 30 s: up to 36 MB, 60 kB/s
    are enough, and 175 kB/s for any payload.
    """
    return min(CHUNK_MOST, max(CHUNK_LEAST, -(-n_bytes // CHUNKS)))


def _packed(data: bytes) -> Array:
    """Bytes as an array, which Flower sends in pieces."""
    return Array("uint8", (len(data),), "bytes", data)


def _code(code: RefusalCode, spoken: list[int]) -> RecordDict:
    """A message that holds a code alone, and the wire versions that this site speaks."""
    return RecordDict({"relay": ConfigRecord({"code": str(code), "spoken": spoken})})
