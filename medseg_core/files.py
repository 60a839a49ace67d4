"""Files that are whole or absent: written beside, flushed, renamed."""

import contextlib
import hashlib
import os
from pathlib import Path

from medseg_core.errors import UnusableFolderError


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step; a crash leaves the old file or the new one. Raises UnusableFolderError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise UnusableFolderError(path.parent, error.strerror or type(error).__name__) from error


def sha256_of(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
