"""`medseg-simulate predict`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from medseg_core.errors import FaultyCasesError
from medseg_simulation.commands.options import takes


@dataclass(frozen=True)
class PredictOptions:
    """Which model, which images, where to."""

    model: Annotated[
        Path, typer.Option(help="Folder of a trained model: model/ of a run; nothing else is needed.")
    ]
    image: Annotated[
        list[str],
        typer.Option(
            help="An image file. Repeat it, or list more files behind it, for more cases. Where each channel has a "
            "file of its own, join them by commas in the order of the task's channels: a_t1.nii.gz,a_t2.nii.gz."
        ),
    ]
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for NAME_segmentation.nii.gz (.png for pictures) and predictions.json with volumes."
        ),
    ]
    more: Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="More images.")] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto"


@takes(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Segment images with a trained model: label maps on the grid of each image. Research use only."""
    from medseg_core.learning.device import choose_device  # torch: seconds to import, so only when needed
    from medseg_core.learning.file_prediction import image_case, segment_files
    from medseg_core.learning.model_package import read_model

    model = read_model(options.model)
    model.network.to(choose_device(options.device))
    cases = [image_case(files_of(text)) for text in (*options.image, *(options.more or ()))]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("images", total=len(cases))
        faults = segment_files(model, cases, options.out, on_case=lambda: progress.advance(bar))
    if len(faults) < len(cases):
        typer.echo(f"{len(cases) - len(faults)} segmented: {options.out / 'predictions.json'}")
    if faults:
        raise faults[0] if len(cases) == 1 else FaultyCasesError(faults, len(cases))


def files_of(text: str) -> list[Path]:
    """The files of one case: one path, commas in its name included if there is such a file; or several."""
    return [Path(text)] if os.path.exists(text) else [Path(part) for part in text.split(",")]  # noqa: PTH110 (never raises)
