"""Unpacking a downloaded tar archive as if it were hostile. In: a tar. Out: one folder of plain files."""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from medseg_core.files import whole_folder
from medseg_simulation.errors import DownloadError

MOST_MEMBERS = 100_000


def unpack(archive: Path, folder: Path, *, largest_bytes: int) -> None:
    """Write the members of an uncompressed tar below its top folder, named as `folder`, into `folder`: all or none.

    Only files and folders are written, with the rights of this user; owners, rights and times of the archive are
    ignored, as are the `._` files of macOS. Raises DownloadError at anything else, at a path that leads out and at more
    than `largest_bytes`; UnusableFolderError if `folder` holds anything.
    """
    with whole_folder(folder) as target:
        try:
            with tarfile.open(archive, "r:") as tar:
                for member, path in _accepted(tar, archive, folder.name, largest_bytes):
                    _write(tar, member, target / path)
        except (tarfile.TarError, EOFError) as error:
            raise _refusal(archive, f"is not a whole tar archive ({error})") from None
        if not any(target.iterdir()):
            raise _refusal(archive, f"is not a whole tar archive of {folder.name}: it holds nothing")


def _accepted(
    tar: tarfile.TarFile, archive: Path, top: str, largest_bytes: int
) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Members and their paths below the top folder, each checked before it is handed out."""
    total, seen = 0, set[str]()
    for member in tar:
        path = _path_below(member.name, top)
        if path is None:
            raise _refusal(archive, f"holds {member.name!r}, which does not lie in its folder {top}")
        if not (member.isreg() or member.isdir()):
            raise _refusal(archive, f"holds {member.name!r}, which is neither a file nor a folder")
        key = str(path).casefold()
        if member.isreg() and (key in seen or key == "."):
            raise _refusal(archive, f"holds {member.name!r} twice")
        seen.add(key)
        total += member.size
        if total > largest_bytes or len(seen) > MOST_MEMBERS:
            raise _refusal(archive, f"holds more than {largest_bytes} bytes or {MOST_MEMBERS} files")
        if not path.name.startswith("._"):
            yield member, path


def _path_below(name: str, top: str) -> PurePosixPath | None:
    """The member's path below the top folder; None for one that lies elsewhere, or may on some system."""
    parts = PurePosixPath(name).parts
    is_plain = name.isprintable() and not any(sign in name for sign in '\\:*?"<>|')  # Windows' own signs
    return PurePosixPath(*parts[1:]) if is_plain and parts[:1] == (top,) and ".." not in parts else None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """One member, by its bytes alone: extracting by tarfile would follow what the archive says of owners and rights."""
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = cast(IO[bytes], tar.extractfile(member))  # None for folders and links alone
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file)


def _refusal(archive: Path, fault: str) -> DownloadError:
    return DownloadError(str(archive), f"it {fault}", "Delete it and fetch it from its publisher again.")
