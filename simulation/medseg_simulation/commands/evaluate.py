"""`medseg-simulate evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from medseg_core.commands.evaluate import score_data
from medseg_simulation.commands.options import Device, personal_file, takes


@dataclass(frozen=True)
class EvaluateOptions:
    """Which model, on which data, where to."""

    model: Annotated[Path, typer.Option(help="Folder of a trained model: model/ of a run.")]
    data: Annotated[Path, typer.Option(help="Folder with labelled cases, or its manifest.csv.")]
    out: Annotated[Path, typer.Option(help="File (JSON) for the scores: mean, labels, sites, cases.")]
    device: Device = "auto"
    site: Annotated[
        str | None,
        typer.Option(help="Use the model as this site made it its own: personal/NAME.safetensors."),
    ] = None


@takes(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    """Score a trained model on every labelled case of a data set, on the grid of its files."""
    from medseg_simulation.virtual_sites import task_of  # SimpleITK: only when needed

    own = personal_file(options.model, options.site)
    score_data(options.model, options.data, options.out, device=options.device, personal=own, task_of=task_of)
