"""Images segmented by a trained model: label files, and how many on the terminal."""

import os
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress

from medseg_core.errors import FaultyCasesError


def segment_images(
    model_folder: Path,
    images: Sequence[str],
    out: Path,
    *,
    device: str,
    personal: Path | None = None,
    with_uncertainty: bool = False,
) -> None:
    """Segment each of `images`, texts as `files_of` reads them, into the folder `out`.

    `personal` is a file of the tensors that are a site's own; `with_uncertainty` as in `segment_files`.
    Raises MedsegError leaves.
    """
    from medseg_core.learning.device import choose_device  # torch: seconds to import, so only when needed
    from medseg_core.learning.file_prediction import image_case, segment_files
    from medseg_core.learning.model_package import read_model

    model = read_model(model_folder, personal)
    model.network.to(choose_device(device))
    cases = [image_case(files_of(text)) for text in images]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("images", total=len(cases))
        faults = segment_files(
            model, cases, out, on_case=lambda: progress.advance(bar), with_uncertainty=with_uncertainty
        )
    if len(faults) < len(cases):
        typer.echo(f"{len(cases) - len(faults)} segmented: {out / 'predictions.json'}")
    if faults:
        raise faults[0] if len(cases) == 1 else FaultyCasesError(faults, len(cases))


def files_of(text: str) -> list[Path | None]:
    """The files of one case: one path, if need be with commas in its name; or several, where a blank is None."""
    if os.path.exists(text) or not text.strip(","):  # noqa: PTH110 (never raises)
        return [Path(text)]
    return [Path(part) if part else None for part in text.split(",")]
