"""Files and folders that are whole or absent: written beside, renamed."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from medseg_core.errors import BusyFolderError, UnusableFolderError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step; a crash leaves the old file or the new one. Raises UnusableFolderError.

    What root writes into the folder of another account belongs to that account.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)  # of a process with our number that was killed
        with beside.open("xb") as file:
            if os.name == "posix" and os.geteuid() == 0:
                owner = path.parent.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            _write_through(file, data)
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise UnusableFolderError(path.parent, error.strerror or type(error).__name__) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a file; it is on disk when this returns. Raises OSError."""
    with path.open("wb") as file:
        _write_through(file, data)


def _write_through(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def write_private(path: Path, data: bytes) -> None:
    """A new file that its owner alone can read, at no moment anybody else. Raises OSError, also where one is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        _write_through(file, data)


def sync_folder(folder: Path) -> None:
    """Bring a rename in the folder to disk, where the system can flush a folder (Windows cannot)."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # some network file systems refuse
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Inside, no other process uses `folder`; the system frees it when this one dies.

    On a file system without locks nothing is checked. Raises BusyFolderError, UnusableFolderError.
    """
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise BusyFolderError(folder) from None
    except NotImplementedError:
        pass
    except OSError as error:
        raise UnusableFolderError(folder, error.strerror or type(error).__name__) from error
    try:
        yield
    finally:
        lock.release()


def is_in_use(folder: Path) -> bool:
    """Whether another process is inside `sole_use` of the folder; nothing is written to find out."""
    if fcntl is None:
        with contextlib.suppress(BusyFolderError), sole_use(folder):
            return False
        return True
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # none is there, or it is somebody else's and not for us to see
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes `path` when the block ends well, and is gone when it does not.

    Raises UnusableFolderError if `path` holds anything, or if writing in the block fails.
    """
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UnusableFolderError(path, "it is not empty")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as beside:
            filled = (
                Path(beside) / path.name
            )  # a folder of its own: that of tempfile is closed to other users
            filled.mkdir()
            yield filled
            if path.exists():
                path.rmdir()  # Windows renames onto nothing only
            filled.rename(path)
    except OSError as error:
        raise UnusableFolderError(path, error.strerror or type(error).__name__) from error
