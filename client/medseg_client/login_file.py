"""A login that a machine of the hospital asks for: one line USER:PASSWORD, in a file of its own."""

import stat
from pathlib import Path

from medseg_core.federation_errors import LoginFileError

LOGIN_BYTES_MAX = 1024


def read_login(path: Path) -> str | None:
    """USER:PASSWORD in a file that its owner alone can read; None where there is no file. Raises LoginFileError."""
    try:
        with path.open("rb") as file:
            mode, data = path.stat().st_mode, file.read(LOGIN_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoginFileError(path, error.strerror or "cannot be read") from None
    if stat.S_IMODE(mode) & 0o077:
        raise LoginFileError(path, "can be read by others than its owner: chmod 600")
    login = data.decode("utf-8", "replace").rstrip("\r\n")
    if ":" not in login or not login.isprintable() or len(data) > LOGIN_BYTES_MAX:
        raise LoginFileError(path, "is not one line USER:PASSWORD")
    return login
