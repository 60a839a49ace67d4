"""`medseg-simulate phantoms`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from medseg_simulation.commands.options import takes


@dataclass(frozen=True)
class PhantomOptions:
    """How many hospitals and cases to make up."""

    out: Annotated[Path, typer.Option(help="New folder for the images and manifest.csv.")]
    sites: Annotated[int, typer.Option(help="Number of hospitals, each with a scanner of its own.")] = 4
    cases: Annotated[int, typer.Option(help="Cases at each hospital.")] = 12
    spatial_dims: Annotated[int, typer.Option(help="2 or 3.")] = 3
    seed: Annotated[int, typer.Option(help="Equal seeds give equal files.")] = 0


@takes(PhantomOptions)
def phantoms(options: PhantomOptions) -> None:
    """Make a data set of procedural anatomy with lesions, scanned by hospitals that really differ."""
    from medseg_simulation.phantoms import PhantomSettings, write_phantoms  # SimpleITK: only when needed

    settings = PhantomSettings(
        sites=options.sites, cases=options.cases, spatial_dims=options.spatial_dims, seed=options.seed
    )
    folder = write_phantoms(options.out, settings)
    typer.echo(
        f"{settings.sites * settings.cases} cases of {settings.sites} hospitals: {folder / 'manifest.csv'}"
    )
