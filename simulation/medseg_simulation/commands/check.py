"""`medseg-simulate check`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from medseg_simulation.commands.options import takes
from medseg_simulation.preset_files import read_preset


@dataclass(frozen=True)
class CheckOptions:
    """Which data, and for which task."""

    data: Annotated[Path, typer.Argument(help="Folder with the images, or its manifest.csv.")]
    preset: Annotated[str | None, typer.Option(help="Check against this preset's task; see `presets`.")] = None
    experiment: Annotated[Path | None, typer.Option(help="Check against this experiment file's task.")] = None


@takes(CheckOptions)
def check(options: CheckOptions) -> None:
    """Open every case: show what is there and every fault with its remedy; exit code 1 on a fault."""
    from medseg_core.cohort.checks import check_cohort  # SimpleITK: only when needed
    from medseg_core.cohort.manifest import read_cohort
    from medseg_core.cohort.tables import render_check
    from medseg_core.config import read_experiment

    task = None
    if options.experiment is not None:
        task = read_experiment(options.experiment).task
    elif options.preset is not None:
        task = read_preset(options.preset).task
    report = check_cohort(read_cohort(options.data, task), task)
    Console().print(render_check(report))
    if not report.is_sound:
        raise typer.Exit(1)
