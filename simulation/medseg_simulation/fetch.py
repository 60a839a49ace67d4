"""Public data sets by name. In: a name and a folder. Out: the data set there, whole and checked."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from medseg_core.errors import UnusableFolderError
from medseg_simulation.archive import unpack
from medseg_simulation.download import Progress, download
from medseg_simulation.errors import DownloadError

DataSetName = Literal["hippocampus"]
LARGEST_BYTES = 1 << 30  # of an archive, and of its contents; the largest known here has 28 MB


@dataclass(frozen=True)
class DataSet:
    """Where a data set lies. Its archive is FOLDER.tar and holds FOLDER with a dataset.json."""

    url: str
    md5: str  # guards against accidents; the publisher gives no stronger one
    folder: str


def data_set(name: DataSetName) -> DataSet:
    """Address and checksum of a data set.

    Source: monai.apps.DecathlonDataset, `resource` and `md5` (MONAI 1.6.1). The set is CC BY-SA 4.0.
    """
    match name:
        case "hippocampus":
            return DataSet(
                url="https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar",
                md5="9d24dba78a72977dbd1d2e110310f31b",
                folder="Task04_Hippocampus",
            )


def fetch(
    name: DataSetName,
    out: Path,
    *,
    url: str | None = None,
    md5: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a data set below `out`, downloaded unless it, or its archive, is there already.

    `url` and `md5` replace the known ones (a mirror). A download that broke is continued by the next call.
    Raises DownloadError, which says what to do without a network, and UnusableFolderError.
    """
    known = data_set(name)
    source = replace(known, url=url or known.url, md5=md5 or known.md5)
    folder, archive = out / source.folder, out / f"{source.folder}.tar"
    if (folder / "dataset.json").is_file():
        return folder
    try:
        out.mkdir(parents=True, exist_ok=True)
        is_given = archive.is_file()  # put there by a person
        if not is_given:
            _download(source, archive, progress or (lambda *_: None))
        _require_md5(archive, source)
        unpack(archive, folder, largest_bytes=LARGEST_BYTES)
        if not is_given:
            archive.unlink()
    except OSError as error:
        raise UnusableFolderError(out, error.strerror or type(error).__name__) from error
    return folder


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on the terminal with bytes, speed and time left, as the `progress` of a fetch."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _download(source: DataSet, archive: Path, progress: Progress) -> None:
    """The archive under its own name, once its checksum is right; what has a wrong one is deleted."""
    partial = archive.with_name(f"{archive.name}.part")
    try:
        download(source.url, partial, largest_bytes=LARGEST_BYTES, progress=progress)
    except DownloadError as error:
        raise DownloadError(
            error.address, error.fault, f"{error.remedy} {_offline(source, archive)}"
        ) from None
    found = _md5_of(partial)
    if found != source.md5:
        partial.unlink()
        fault = f"the file received has MD5 {found}, not {source.md5}, and was deleted"
        remedy = "Run the command again; if that does not help, something on the way changes the file"
        raise DownloadError(
            source.url, fault, f"{remedy}, such as a proxy's login page. {_offline(source, archive)}"
        )
    partial.replace(archive)


def _require_md5(archive: Path, source: DataSet) -> None:
    """A given archive is the published one. Raises DownloadError; the file is left for its owner to judge."""
    if (found := _md5_of(archive)) != source.md5:
        fault = f"it has MD5 {found}, not {source.md5}: another file, or not yet whole"
        raise DownloadError(
            str(archive), fault, f"Delete it to download it here, or copy it again from {source.url}."
        )


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _offline(source: DataSet, archive: Path) -> str:
    """What to do on a machine without a network."""
    return (
        f"Without a network: fetch {source.url} (MD5 {source.md5}) on another machine, put it at {archive} and run "
        "the command again. `medseg-simulate phantoms` makes data that need no network."
    )
