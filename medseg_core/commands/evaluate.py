"""A trained model scored on labelled cases: a file of scores, and a table on the terminal."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from medseg_core.errors import NothingToScoreError, UnusableFolderError

if TYPE_CHECKING:
    from medseg_core.assessment.model_evaluation import Evaluation
    from medseg_core.assessment.summary import Scores
    from medseg_core.config import Experiment, Task
    from medseg_core.types import Case

COLUMNS = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95_mm": "HD95 mm",
    "hd95_px": "HD95 px",
    "surface_dice": "surface Dice",
}


def score_data(
    model_folder: Path,
    data: Path,
    out: Path,
    *,
    device: str,
    personal: Path | None = None,
    task_of: Callable[["Experiment", "Case"], "Task"] = lambda experiment, case: experiment.task,
) -> None:
    """Score the model on every labelled case of `data`; `out` is a JSON file. Raises MedsegError leaves.

    `personal` is a file of the tensors that are a site's own. `task_of` gives the task of the model's experiment in the
    values of a case's label file.
    """
    from medseg_core.assessment.model_evaluation import evaluate_cases, summarise_evaluation
    from medseg_core.cohort.manifest import read_cohort
    from medseg_core.files import write_atomic
    from medseg_core.learning.device import choose_device  # torch: seconds to import, so only when needed
    from medseg_core.learning.model_package import read_model

    if out.is_dir():
        raise UnusableFolderError(out, "it is a folder where a file is to be written")
    model = read_model(model_folder, personal)
    model.network.to(choose_device(device))
    experiment = model.experiment
    cohort = read_cohort(data, experiment.task)
    cases = [case for case in cohort.cases if case.label is not None]
    if not cases:
        raise NothingToScoreError(data)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("cases", total=len(cases))
        scores = evaluate_cases(
            model,
            cases,
            task_of=lambda case: task_of(experiment, case),
            on_case=lambda: progress.advance(bar),
        )
    found = summarise_evaluation(model, scores)
    write_atomic(out, found.model_dump_json(by_alias=True, indent=1).encode() + b"\n")
    Console().print(render(found))
    if len(cases) < len(cohort.cases):
        typer.echo(f"{len(cohort.cases) - len(cases)} cases without a label are left out", err=True)
    typer.echo(f"scores: {out}")


def render(found: "Evaluation") -> Table:
    """Sites, labels and the mean over all cases."""
    names = [name for name in COLUMNS if getattr(found.mean, name) is not None]
    table = Table("", "cases", *(COLUMNS[name] for name in names))
    for site, scores in found.sites.items():
        table.add_row(f"site {site}", str(scores.n_cases), *_cells(scores, names))
    table.add_section()
    for label, means in found.labels.items():
        annotated = sum(label in case.labels for case in found.cases)
        table.add_row(f"label {label}", str(annotated), *_cells(means, names))
    table.add_section()
    table.add_row("all cases", str(found.n_cases), *_cells(found.mean, names))
    return table


def _cells(scores: "Scores", names: list[str]) -> list[str]:
    values = (getattr(scores, name) for name in names)
    return ["–" if value is None else f"{value:.3f}" for value in values]
