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

Bytes that are no request of the coordinator get a line, too: the same bytes once, and LINES_AN_HOUR lines at most. What
comes beyond is counted, in one line when the hour is over or the trainer ends; a kill forgets that count.
"""

import contextlib
import datetime as dt
import os
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from medseg_client.answered import Answered
from medseg_client.ledger_lines import (
    GENESIS,
    HEAD,
    LINES,
    Entry,
    Event,
    Line,
    pass_lines,
    read_ledger,
    signed_line,
)
from medseg_client.turned_away import TurnedAway
from medseg_core.errors import UnusableFolderError
from medseg_core.federation_errors import LedgerError
from medseg_core.files import sha256_of, sync_folder, write_atomic
from medseg_core.wire.codes import RefusalCode

__all__ = ["Entry", "Event", "Ledger", "Line", "read_ledger"]


class Ledger:
    """The one writer of a site's ledger; the caller sees to it that there is no second process."""

    def __init__(self, folder: Path, key: Ed25519PrivateKey, *, keep_payloads_days: int) -> None:
        """Read and check what is there, mend an unfinished line. Raises LedgerError, UnusableFolderError."""
        self.folder, self._key, self._keep_days = folder, key, keep_payloads_days
        self._lock = threading.Lock()
        self.answered, self._turned_away = Answered(), TurnedAway()
        self.last: Line | None = None  # the newest
        torn = pass_lines(folder, key.public_key(), self._count)
        path = folder / LINES
        self._size = path.stat().st_size - len(torn) if path.exists() else 0
        if torn:
            self.append(Event(event="repair", torn_bytes=len(torn)))
        self._prune_payloads()

    def append(self, event: Event, payload: bytes = b"") -> Line:
        """Add a line, and keep the payload; both are on disk when this returns.

        Raises UnusableFolderError, LedgerError.
        """
        with self._lock:
            self._tell_more_if_due()
            return self._append(event, payload)

    def turn_away(self, data: bytes | bytearray, code: RefusalCode) -> None:
        """Enter bytes that got a bare code, if they have no line yet and the hour has room; else count them.

        Raises UnusableFolderError, LedgerError.
        """
        sha256 = sha256_of(data)
        event = Event(event="refused", code=code, request_sha256=sha256, n_bytes=len(data))
        with self._lock:
            if self.answered.is_refused(sha256, code):
                return
            self._tell_more_if_due()
            if self._turned_away.has_room(time.time()):
                self._append(event)
            else:
                self._turned_away.n_more += 1

    def close(self) -> None:
        """Enter what was only counted so far. Raises UnusableFolderError, LedgerError."""
        with self._lock:
            if self._turned_away.n_more:
                self._tell_more()

    def _tell_more_if_due(self) -> None:
        if self._turned_away.n_more and self._turned_away.has_room(time.time()):
            self._tell_more()

    def _tell_more(self) -> None:
        self._append(Event(event="refused", n_more=self._turned_away.n_more))

    def _append(self, event: Event, payload: bytes = b"") -> Line:
        last = self.last
        entry = Entry(
            **dict(event),
            sequence=last.entry.sequence + 1 if last else 1,
            previous=last.sha256 if last else GENESIS,
            time=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )
        data = signed_line(entry, self._key)
        if payload and self._keep_days:
            write_atomic(self.folder / "payloads" / sha256_of(payload), payload)
            self._prune_payloads()
        self._write(data + b"\n")
        self._size += len(data) + 1
        self._count(line := Line(entry, sha256_of(data)))
        write_atomic(self.folder / HEAD, f"{entry.sequence} {line.sha256}\n".encode())
        return line

    def _count(self, line: Line) -> None:
        """A line that is on disk is the newest, and counts."""
        entry = line.entry
        self.last = line
        self.answered.add(entry)
        if entry.event == "refused":
            self._turned_away.add(dt.datetime.fromisoformat(entry.time).timestamp(), entry.n_more)

    def _write(self, data: bytes) -> None:
        """Put data where the last whole line ends: over what a crash or a full disk left there."""
        path = self.folder / LINES
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch()
            if path.stat().st_size < self._size:
                n_lines = self.last.entry.sequence if self.last else 0
                raise LedgerError(path, n_lines, "was cut off while the trainer ran")
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
