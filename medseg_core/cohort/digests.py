"""SHA-256 of files, remembered: a file that is as it was is not opened again.

As it was means the same path, inode and size, and the same times of its last change. Of these nobody can set `st_ctime`
(except on Windows, where it tells when the file was made). A change within one tick of the clock would not show, so a
digest is remembered only of a file that has rested for a while. Git's index does the same.
"""

import contextlib
import hashlib
import time
from pathlib import Path

RESTED_NS = 2_000_000_000  # the coarsest clock of a file system: FAT's
DIGEST_BYTES = hashlib.sha256().digest_size


def remembered_sha256(path: Path, memory: Path) -> bytes:
    """SHA-256 of the file's bytes; `memory` is a folder that can be deleted at any time.

    Raises:
        OSError: the file is not there, or has to be read and cannot be.
    """
    now, found = time.time_ns(), path.stat()
    times = (found.st_mtime_ns, found.st_ctime_ns)
    state = repr((str(path.absolute()), found.st_ino, found.st_size, times))
    place = memory / hashlib.sha256(state.encode()).hexdigest()[:32]
    if (known := _read(place)) is not None:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    if now - max(times) > RESTED_NS:
        with contextlib.suppress(OSError):  # it is hashed again, then
            memory.mkdir(parents=True, exist_ok=True)
            place.write_text(digest.hex())
    return digest


def _read(place: Path) -> bytes | None:
    """What a file of the memory holds; None where it is absent or damaged."""
    try:
        digest = bytes.fromhex(place.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return digest if len(digest) == DIGEST_BYTES else None
