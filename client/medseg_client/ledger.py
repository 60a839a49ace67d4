"""What left a site: one signed line for each answer, each naming the one before it. Lines are added, never changed.

    LEDGER/ledger.jsonl     {"entry":{...},"signature":"..."} a line, UTF-8
    LEDGER/head             number and SHA-256 of the last line, so that lines cut by accident show
    LEDGER/payloads/SHA256  the tensors of an answer, for `keep_payloads_days`

The order of an answer: its tensors and its line are on disk, then it is sealed with the line's SHA-256 in its header,
then the site's state stores it (site_state.py), then it is sent.

- Killed before the line was whole: nothing was sealed. What is there of the line is cut away at the next start, and a
  line says so. Lines end with a newline, so a torn one is known by its lack.
- Killed between line and stored state: the line tells of an answer that was never sent. The request is answered anew
  when it comes again, with a line of its own; a budget counts both as one.
- Killed between stored state and sending, or the answer was lost on its way: the request comes again and gets the
  stored bytes; a line says so, once.
"""

import contextlib
import datetime as dt
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field

from medseg_core.errors import UnusableFolderError
from medseg_core.federation_errors import LedgerError
from medseg_core.files import sha256_of, sync_folder, write_atomic
from medseg_core.wire.header import Header, Sha256

GENESIS = "0" * 64  # before the first line
_DOMAIN = b"medseg ledger 1\x00"  # keeps a signature from being taken for one over something else
_OPEN, _SIGNED, _CLOSE = b'{"entry":', b',"signature":"', b'"}'
_TAIL_BYTES = len(_SIGNED) + 128 + len(_CLOSE)


class Event(BaseModel):
    """What happened. `header` is all that an answer says besides its tensors, as it left."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    event: Literal["answer", "repeat", "repair"]
    header: Header | None = None  # of answers and repeats
    request_sha256: Sha256 | None = None  # of the bytes that were answered
    model_sha256: Sha256 | None = None  # of the model that came with the request
    update_norm: float | None = None  # L2 over all tensors, as it left
    norm_before_clip: float | None = None
    torn_bytes: int | None = None  # of a repair: how much of an unfinished line was cut away


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


class Ledger:
    """The one writer of a site's ledger; the caller sees to it that there is no second process."""

    def __init__(self, folder: Path, key: Ed25519PrivateKey, *, keep_payloads_days: int) -> None:
        """Read and check what is there, mend an unfinished line. Raises LedgerError, UnusableFolderError."""
        self.folder, self._key, self._keep_days = folder, key, keep_payloads_days
        self._lock = threading.Lock()
        reading = read_ledger(folder, key.public_key())
        self._lines = list(reading.lines)
        path = folder / "ledger.jsonl"
        self._size = path.stat().st_size - len(reading.torn) if path.exists() else 0
        if reading.torn:
            self.append(Event(event="repair", torn_bytes=len(reading.torn)))
        self._prune_payloads()

    @property
    def entries(self) -> Iterable[Entry]:
        """All entries, oldest first."""
        return (line.entry for line in self._lines)

    @property
    def last(self) -> Line | None:
        """The newest line."""
        return self._lines[-1] if self._lines else None

    def append(self, event: Event, payload: bytes = b"") -> Line:
        """Add a line, and keep the payload; both are on disk when this returns.

        Raises UnusableFolderError, LedgerError.
        """
        with self._lock:
            last = self.last
            entry = Entry(
                **dict(event),
                sequence=last.entry.sequence + 1 if last else 1,
                previous=last.sha256 if last else GENESIS,
                time=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            )
            data = _signed_line(entry, self._key)
            if payload and self._keep_days:
                write_atomic(self.folder / "payloads" / sha256_of(payload), payload)
                self._prune_payloads()
            self._write(data + b"\n")
            self._lines.append(line := Line(entry, sha256_of(data)))
            self._size += len(data) + 1
            write_atomic(self.folder / "head", f"{entry.sequence} {line.sha256}\n".encode())
        return line

    def _write(self, data: bytes) -> None:
        """Put data where the last whole line ends: over what a crash or a full disk left there."""
        path = self.folder / "ledger.jsonl"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch()
            if path.stat().st_size < self._size:
                raise LedgerError(path, len(self._lines), "was cut off while the trainer ran")
            with path.open("r+b") as file:
                file.truncate(self._size)
                file.seek(self._size)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self.folder)
        except OSError as error:
            raise UnusableFolderError(self.folder, error.strerror or type(error).__name__) from error

    def _prune_payloads(self) -> None:
        """Drop tensors that have been kept long enough; what cannot be dropped now is tried again with the next."""
        oldest = time.time() - self._keep_days * 24 * 3600
        for path in (self.folder / "payloads").glob("*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def read_ledger(folder: Path, key: Ed25519PublicKey, *, head: str | None = None) -> Reading:
    """A ledger whose lines are all there, unchanged, in order and signed with `key`. Raises LedgerError otherwise.

    `head` is the SHA-256 of a line that must be among them, such as an envelope names; that of the folder's own `head`
    file always must. A line that a crash left unfinished is no fault.
    """
    path, noted = folder / "ledger.jsonl", folder / "head"
    wanted = [head] if head else []
    try:
        if noted.exists():  # before the lines are read: a trainer may add some meanwhile
            wanted.append(noted.read_bytes().decode("ascii", "replace").strip().rpartition(" ")[2])
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UnusableFolderError(folder, error.strerror or type(error).__name__) from error
    *whole, torn = data.split(b"\n")
    if whole and b"\0" in whole[-1]:  # a power cut may leave holes; no line of ours has any
        torn = whole.pop() + b"\n" + torn
    lines: list[Line] = []
    for text in whole:
        lines.append(_checked(path, text, lines, key))
    for sha256 in wanted:
        if sha256 not in {line.sha256 for line in lines}:
            raise LedgerError(path, len(lines), f"line {sha256!r:.20} should follow: lines were cut off")
    return Reading(tuple(lines), torn)


def _signed_line(entry: Entry, key: Ed25519PrivateKey) -> bytes:
    """The entry as a line, without the newline."""
    body = entry.model_dump_json().encode()
    return b"".join((_OPEN, body, _SIGNED, key.sign(_DOMAIN + body).hex().encode(), _CLOSE))


def _checked(path: Path, text: bytes, before: Sequence[Line], key: Ed25519PublicKey) -> Line:
    """The line in its bytes, signed and next in order. Raises LedgerError."""
    number = len(before) + 1
    try:
        entry = _entry_in(text, key)
    except (ValueError, InvalidSignature):
        raise LedgerError(path, number, "is not as this site wrote it") from None
    if entry.sequence != number or entry.previous != (before[-1].sha256 if before else GENESIS):
        raise LedgerError(path, number, f"it was written as line {entry.sequence}, after another one")
    return Line(entry, sha256_of(text))


def _entry_in(text: bytes, key: Ed25519PublicKey) -> Entry:
    """The entry of a line signed with the key. Raises ValueError, InvalidSignature."""
    body, signature = text[len(_OPEN) : -_TAIL_BYTES], text[-_TAIL_BYTES:][len(_SIGNED) : -len(_CLOSE)]
    if text != b"".join((_OPEN, body, _SIGNED, signature, _CLOSE)) or signature != signature.lower():
        raise ValueError("not in the form of a line")
    key.verify(bytes.fromhex(signature.decode()), _DOMAIN + body)
    return Entry.model_validate_json(body)
