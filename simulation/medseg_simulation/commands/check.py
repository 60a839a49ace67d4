"""`medseg-simulate check`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from medseg_core.config import Experiment, Task, read_experiment
from medseg_core.errors import ExperimentFileError
from medseg_core.types import Case
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
    at_case = _tasks_of_cases(cohort.cases, experiment) if experiment else {}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("cases", total=len(cohort.cases))
        report = check_cohort(cohort, task, at_case=at_case, on_case=lambda: progress.advance(bar))
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


def _tasks_of_cases(cases: Sequence[Case], experiment: Experiment) -> dict[str, Task]:
    """By case, the task in the values of its site; none where the experiment says nothing of sites.

    Raises PartitionError.
    """
    from medseg_simulation.virtual_sites import tasks_of_cases  # SimpleITK: only when needed

    if not experiment.simulation.site:
        return {}
    if experiment.simulation.partition == "dirichlet":
        typer.echo(
            "warning: partition dirichlet: every case is held to [task] alone, since which site it belongs to is found "
            "out by reading it so",
            err=True,
        )
        return {}
    return tasks_of_cases(cases, experiment)
