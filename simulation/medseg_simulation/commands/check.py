"""`medseg-simulate check`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from medseg_core.config import Experiment, Task, read_experiment
from medseg_core.errors import ExperimentFileError
from medseg_simulation.commands.options import takes
from medseg_simulation.preset_files import read_preset


@dataclass(frozen=True)
class CheckOptions:
    """Which data, and for which task."""

    data: Annotated[Path, typer.Argument(help="Folder with the images, or its manifest.csv.")]
    preset: Annotated[
        str | None, typer.Option(help="Check against the task of this preset; see `presets`.")
    ] = None
    experiment: Annotated[
        Path | None, typer.Option(help="Check against the task of this experiment file.")
    ] = None


@takes(CheckOptions)
def check(options: CheckOptions) -> None:
    """Open every case: show what is there and every fault with its remedy; exit code 1 on a fault."""
    from medseg_core.cohort.checks import check_cohort  # SimpleITK: only when needed
    from medseg_core.cohort.manifest import read_cohort
    from medseg_core.cohort.tables import render_check

    experiment = _experiment_of(options)
    task = experiment.task if experiment else None
    cohort = read_cohort(options.data, task)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("cases", total=len(cohort.cases))
        at_site = _tasks_at_sites(experiment) if experiment else {}
        report = check_cohort(cohort, task, at_site=at_site, on_case=lambda: progress.advance(bar))
    Console().print(render_check(report))
    if not report.is_sound:
        raise typer.Exit(1)


def _experiment_of(options: CheckOptions) -> Experiment | None:
    """Whose task to check against; None shows the data as they are. Raises ExperimentFileError, UnknownPresetError."""
    if options.experiment is not None and options.preset is not None:
        raise ExperimentFileError("check", ["give --preset or --experiment, not both"])
    if options.experiment is not None:
        return read_experiment(options.experiment)
    return None if options.preset is None else read_preset(options.preset)


def _tasks_at_sites(experiment: Experiment) -> dict[str, Task]:
    """The task in the values of each site that the data name and the experiment says something of."""
    if experiment.simulation.partition != "natural":
        return {}
    return {site: experiment.task.at_site(own) for site, own in experiment.simulation.site.items()}
