"""`medseg-simulate predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from medseg_core.commands.predict import segment_images
from medseg_simulation.commands.options import Device, personal_file, takes


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
    device: Device = "auto"
    site: Annotated[
        str | None,
        typer.Option(help="Use the model as this site made it its own: personal/NAME.safetensors."),
    ] = None
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Say how far each case is to be trusted, with maps; slower.")
    ] = False


@takes(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Segment images with a trained model: label maps on the grid of each image. Research use only."""
    images = (*options.image, *(options.more or ()))
    own = personal_file(options.model, options.site)
    segment_images(
        options.model,
        images,
        options.out,
        device=options.device,
        personal=own,
        with_uncertainty=options.uncertainty,
    )
