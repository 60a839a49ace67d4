"""`medseg-simulate fetch`."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medseg_simulation.commands.options import takes


class DataSetName(StrEnum):
    """Public data sets that can be fetched."""

    HIPPOCAMPUS = "hippocampus"


@dataclass(frozen=True)
class FetchOptions:
    """What to download, and where to."""

    name: Annotated[DataSetName, typer.Argument(metavar="NAME", help="Public data set: hippocampus.")]
    out: Annotated[
        Path, typer.Option(help="Folder to put it in; an interrupted download there is continued.")
    ]
    url: Annotated[str | None, typer.Option(help="Address of a mirror; its file must be the same.")] = None


@takes(FetchOptions)
def fetch(options: FetchOptions) -> None:
    """Download a public data set, with resume and checksum."""
    from medseg_simulation.fetch import fetch as download
    from medseg_simulation.fetch import progress_bar

    with progress_bar(options.name) as progress:
        folder = download(options.name.value, options.out, url=options.url, progress=progress)
    typer.echo(f"{options.name}: {folder}")
