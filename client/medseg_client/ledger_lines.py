"""The lines of a ledger: what one says, how it is signed, and how all of them are read back and checked.

Each line names the SHA-256 of the one before it. So the signature of the last line vouches for all of them, as surely
as all signatures together: who cannot sign cannot change a byte anywhere and still end in a line that is signed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field

from medseg_core.errors import UnusableFolderError
from medseg_core.federation_errors import LedgerError
from medseg_core.files import sha256_of
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import Header, Sha256

GENESIS = "0" * 64  # before the first line
LINES, HEAD = "ledger.jsonl", "head"
_DOMAIN = b"medseg ledger 1\x00"  # keeps a signature from being taken for one over something else
_OPEN, _SIGNED, _CLOSE = b'{"entry":', b',"signature":"', b'"}'
_TAIL_BYTES = len(_SIGNED) + 128 + len(_CLOSE)
_HELD = 3  # the last line, one with holes after a power cut, and what is there of a further one


class Event(BaseModel):
    """What happened. `header` is all that an answer says besides its tensors, as it left.

    `refused` is of bytes that are no request of the coordinator: they got a bare code, which nobody signed.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    event: Literal["answer", "repeat", "repair", "refused"]
    header: Header | None = None  # of answers and repeats
    request_sha256: Sha256 | None = None  # of the bytes that were answered, or refused
    model_sha256: Sha256 | None = None  # of the model that came with the request
    update_norm: float | None = None  # L2 over all tensors, as it left
    norm_before_clip: float | None = None
    torn_bytes: int | None = None  # of a repair: how much of an unfinished line was cut away
    code: RefusalCode | None = None  # of refused bytes: what was answered
    n_bytes: int | None = None  # of refused bytes
    n_more: int | None = None  # refused, and counted instead of listed: the only fact of its line


class Entry(Event):
    """A line of the ledger."""

    ledger: Literal[1] = 1
    sequence: Annotated[int, Field(ge=1)]  # 1, 2, ..
    previous: Sha256  # SHA-256 of the line before, without its newline
    time: str  # UTC


@dataclass(frozen=True)
class Line:
    """An entry that was read back, and the SHA-256 that the next one names."""

    entry: Entry
    sha256: str


@dataclass(frozen=True)
class Reading:
    """A ledger whose lines hold. `torn` is what is there of a line that was never finished."""

    lines: tuple[Line, ...]
    torn: bytes

    @property
    def head(self) -> str:
        """SHA-256 of the last line."""
        return self.lines[-1].sha256 if self.lines else GENESIS


def read_ledger(
    folder: Path, key: Ed25519PublicKey, *, head: str | None = None, each_signature: bool = True
) -> Reading:
    """A ledger whose lines are all there, unchanged, in order and signed with `key`. Raises LedgerError otherwise.

    `head` is the SHA-256 of a line that must be among them, such as an envelope names; that of the folder's own `head`
    file always must. A line that a crash left unfinished is no fault. `each_signature` checks every signature, one by
    one, not the last alone.
    """
    lines: list[Line] = []
    torn = pass_lines(folder, key, lines.append, head=head, each_signature=each_signature)
    return Reading(tuple(lines), torn)


def pass_lines(
    folder: Path,
    key: Ed25519PublicKey,
    on_line: Callable[[Line], object],
    *,
    head: str | None = None,
    each_signature: bool = False,
) -> bytes:
    """Hand each line over, oldest first, as `read_ledger` checks them; returns what is there of an unfinished line.

    One line is in memory at a time. What was handed over counts only when this has returned.
    """
    path, noted = folder / LINES, folder / HEAD
    reader = _Reader(path, key, on_line)
    try:
        wanted = {head} if head else set()
        if noted.exists():  # before the lines are read: a trainer may add some meanwhile
            wanted.add(noted.read_bytes().decode("ascii", "replace").strip().rpartition(" ")[2])
        torn = reader.read(wanted, each_signature=each_signature) if path.exists() else b""
    except OSError as error:
        raise UnusableFolderError(folder, error.strerror or type(error).__name__) from error
    except LedgerError:
        if not each_signature:  # which line it is that was changed, its own signature tells
            pass_lines(folder, key, lambda line: None, head=head, each_signature=True)
        raise
    for sha256 in wanted:
        raise LedgerError(path, reader.n_lines, f"line {sha256!r:.20} should follow: lines were cut off")
    return torn


def signed_line(entry: Entry, key: Ed25519PrivateKey) -> bytes:
    """The entry as a line, without the newline."""
    body = entry.model_dump_json().encode()
    return b"".join((_OPEN, body, _SIGNED, key.sign(_DOMAIN + body).hex().encode(), _CLOSE))


class _Reader:
    """Goes through the lines of a file, each held against the one before."""

    def __init__(self, path: Path, key: Ed25519PublicKey, on_line: Callable[[Line], object]) -> None:
        self._path, self._key, self._on_line = path, key, on_line
        self.n_lines, self._head = 0, GENESIS

    def read(self, wanted: set[str], *, each_signature: bool) -> bytes:
        """All lines; drops from `wanted` what they are. Returns what is there of an unfinished one."""
        held: list[bytes] = []
        with self._path.open("rb") as file:
            for text in file:
                held.append(text)
                if len(held) > _HELD:
                    wanted.discard(self._take(held.pop(0), is_signature_checked=each_signature))
        torn = held.pop() if held and not held[-1].endswith(b"\n") else b""
        if held and b"\0" in held[-1]:  # a power cut may leave holes; no line of ours has any
            torn = held.pop() + torn
        for text in held:
            wanted.discard(self._take(text, is_signature_checked=True))
        return torn

    def _take(self, text: bytes, *, is_signature_checked: bool) -> str:
        """The SHA-256 of a line that is the next in order. Raises LedgerError."""
        text = text.removesuffix(b"\n")
        self.n_lines += 1
        try:
            entry = _entry_in(text, self._key if is_signature_checked else None)
        except (ValueError, InvalidSignature):
            raise LedgerError(self._path, self.n_lines, "is not as this site wrote it") from None
        if (entry.sequence, entry.previous) != (self.n_lines, self._head):
            fault = f"it was written as line {entry.sequence}, after another one"
            raise LedgerError(self._path, self.n_lines, fault)
        self._head = sha256_of(text)
        self._on_line(Line(entry, self._head))
        return self._head


def _entry_in(text: bytes, key: Ed25519PublicKey | None) -> Entry:
    """The entry of a line, signed with the key if one is given. Raises ValueError, InvalidSignature."""
    body, signature = text[len(_OPEN) : -_TAIL_BYTES], text[-_TAIL_BYTES:][len(_SIGNED) : -len(_CLOSE)]
    if text != b"".join((_OPEN, body, _SIGNED, signature, _CLOSE)) or signature != signature.lower():
        raise ValueError("not in the form of a line")
    if key is not None:
        key.verify(bytes.fromhex(signature.decode()), _DOMAIN + body)
    return Entry.model_validate_json(body)
