"""A folder that is whole or absent: filled beside its place, then renamed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg_core.errors import UnusableFolderError


@contextmanager
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
