"""The envelope: the one thing that crosses a boundary. Bytes that are checked before they are read.

    magic 6 | version 2 | header length 4 | payload length 8 | header (JSON) | Ed25519 signature 64 | payload

Numbers are big-endian. The signature covers the header bytes exactly as they travel; the header names the
payload's length and SHA-256, so one signature binds all of it.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medseg_core.errors import WireError
from medseg_core.wire import versions
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import HEADER_BYTES_MAX, Header, may_carry_payload, parse_header

MAGIC = b"MEDSEG"
SIGNATURE_BYTES = 64  # RFC 8032
_FRAME = struct.Struct(">6sHIQ")
_DOMAIN = b"medseg envelope 1\x00"  # keeps a signature from being taken for one over something else


@dataclass(frozen=True)
class Envelope:
    """Header, signature and payload as they travel; `header` is always what `header_bytes` says.

    Nothing in it is to be believed before `verify`. The payload of one read from bytes is a view of them: it is in
    memory once. Raises WireError when the header does not parse, or the payload is not of the length that it names.
    """

    header_bytes: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    payload: bytes | memoryview = field(repr=False)
    header: Header = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "header", parse_header(self.header_bytes))
        if len(self.signature) != SIGNATURE_BYTES:
            raise WireError(
                RefusalCode.MALFORMED, f"signature of {len(self.signature)} bytes, not {SIGNATURE_BYTES}"
            )
        if len(self.payload) != self.header.payload_bytes:
            raise WireError(
                RefusalCode.MALFORMED,
                f"payload of {len(self.payload)} bytes, header says {self.header.payload_bytes}",
            )
        if not self.payload and self.header.kind in ("train", "publish") and may_carry_payload(self.header):
            raise WireError(
                RefusalCode.MALFORMED, f"a {self.header.direction} of kind {self.header.kind} needs a payload"
            )

    @property
    def n_bytes(self) -> int:
        """Length of `to_bytes`."""
        return _FRAME.size + len(self.header_bytes) + SIGNATURE_BYTES + len(self.payload)

    def to_bytes(self) -> bytes:
        """The envelope as it travels; `from_bytes` of it gives the envelope again."""
        frame = _FRAME.pack(MAGIC, self.header.wire, len(self.header_bytes), len(self.payload))
        return b"".join((frame, self.header_bytes, self.signature, self.payload))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, *, max_bytes: int) -> "Envelope":
        """The envelope in bytes from outside. Raises WireError (too_large, malformed, wire_version) only."""
        view = memoryview(bytes(data))  # of bytes no copy; of what can change under the signature, one
        header_length, payload_length = _checked_lengths(view, max_bytes)
        signature_at = _FRAME.size + header_length
        payload_at = signature_at + SIGNATURE_BYTES
        envelope = cls(
            bytes(view[_FRAME.size : signature_at]),
            bytes(view[signature_at:payload_at]),
            view[payload_at : payload_at + payload_length],
        )
        if (framed := _FRAME.unpack_from(view)[1]) != envelope.header.wire:
            raise WireError(
                RefusalCode.MALFORMED, f"wire {framed} outside, {envelope.header.wire} in the header"
            )
        return envelope


def split_payload(data: bytes) -> tuple[bytes, bytes]:
    """The bytes of an envelope as head and payload: of one broadcast, all sites share the payload.

    Joined they are the envelope again. Raises WireError for bytes whose lengths do not fit.
    """
    view = memoryview(data)
    header_length, _ = _checked_lengths(view, max_bytes=len(view))
    payload_at = _FRAME.size + header_length + SIGNATURE_BYTES
    return bytes(view[:payload_at]), bytes(view[payload_at:])


def naming(header: Header, payload: bytes | memoryview) -> Header:
    """The header with length and SHA-256 of its payload filled in."""
    sha256 = hashlib.sha256(payload).hexdigest() if payload else None
    return header.model_copy(update={"payload_bytes": len(payload), "payload_sha256": sha256})


def seal(header: Header, payload: bytes | memoryview, private_key: Ed25519PrivateKey) -> Envelope:
    """The signed envelope, its payload named. Raises WireError when header and payload disagree."""
    header_bytes = naming(header, payload).model_dump_json().encode()
    return Envelope(header_bytes, private_key.sign(_DOMAIN + header_bytes), payload)


def verify(envelope: Envelope, public_key: Ed25519PublicKey) -> None:
    """The envelope comes whole from the owner of the key. Raises WireError (bad_signature, malformed)."""
    try:
        public_key.verify(envelope.signature, _DOMAIN + envelope.header_bytes)
    except InvalidSignature:
        raise WireError(
            RefusalCode.BAD_SIGNATURE,
            f"header of site {envelope.header.site!r} is not signed by the known key",
        ) from None
    found = hashlib.sha256(envelope.payload).hexdigest() if envelope.payload else ""
    if not hmac.compare_digest(found, envelope.header.payload_sha256 or ""):
        raise WireError(RefusalCode.MALFORMED, "payload differs from the SHA-256 in the signed header")


def _checked_lengths(view: memoryview, max_bytes: int) -> tuple[int, int]:
    """Lengths of header and payload, consistent with the data at hand. Raises WireError."""
    if len(view) > max_bytes:
        raise WireError(RefusalCode.TOO_LARGE, f"envelope of {len(view)} bytes, at most {max_bytes}")
    if len(view) < _FRAME.size:
        raise WireError(RefusalCode.MALFORMED, f"envelope of {len(view)} bytes is cut short")
    magic, version, header_length, payload_length = _FRAME.unpack_from(view)
    if magic != MAGIC:
        raise WireError(RefusalCode.MALFORMED, "not a medseg envelope")
    if version not in versions.SPOKEN:
        raise WireError(RefusalCode.WIRE_VERSION, f"wire version {version}, spoken here: {versions.SPOKEN}")
    if header_length > HEADER_BYTES_MAX:
        raise WireError(RefusalCode.TOO_LARGE, f"header of {header_length} bytes, at most {HEADER_BYTES_MAX}")
    expected = _FRAME.size + header_length + SIGNATURE_BYTES + payload_length
    if len(view) != expected:
        raise WireError(RefusalCode.MALFORMED, f"envelope of {len(view)} bytes, its lengths say {expected}")
    return header_length, payload_length
