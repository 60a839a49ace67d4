"""`medseg-site review`: from the words of the command line to the page, until Ctrl-C."""

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import click
import typer
from rich.console import Console
from rich.progress import Progress

from medseg_client.process_commands import stop_on_signals

if TYPE_CHECKING:
    from medseg_client.review.answers import Material
    from medseg_client.review.labels import LabelMap, Segment
    from medseg_core.config import Task
    from medseg_core.types import Case


LOOK_S = 0.5  # a signal that the system gives to another thread wakes nobody who waits without an end


def review(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder with the images, or its manifest.csv.")
    ],
    predictions: Annotated[
        Path | None, typer.Option(help="Folder of segmentations, as predict writes it.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a model that segments each case when it is opened.")
    ] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="Experiment whose channels and labels the files have.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="File of scores that evaluate wrote: the list is sorted by them.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0: any that is free.")] = 0,
    device: Annotated[str, typer.Option(help="For --model: auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Look at cases in a browser on this machine: image, truth and prediction, with scores. Until Ctrl-C.

    Research use only.
    """
    if model is not None and (predictions is not None or experiment is not None):
        raise click.UsageError("--model segments by itself and knows its labels: leave the others away")
    from medseg_client.review.answers import Answers
    from medseg_client.review.page import with_page
    from medseg_client.review.server import ReviewServer
    from medseg_core.config import read_experiment

    task = read_experiment(experiment).task if experiment else None
    segment = None
    if model is not None:
        task, segment = _segmenting(model, device)
    material = _material(data, predictions, scores, task, segment)
    n = len(material.cases)
    typer.echo(f"{n} case{'s' * (n != 1)}. This page stays on this machine; each address opens it once:")
    stop = stop_on_signals()
    server = ReviewServer(port, with_page(Answers(material).answer), tell=typer.echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not stop.wait(LOOK_S):
        pass
    _end()


def _end() -> NoReturn:
    """End the process at once: a thread that segments cannot be stopped, and torch aborts where Python tries to."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _material(
    data: Path, predictions: Path | None, scores: Path | None, task: "Task | None", segment: "Segment | None"
) -> "Material":
    """What may be looked at. Raises MedsegError leaves."""
    from medseg_client.review.answers import Material
    from medseg_client.review.cases import Predictions, cases_to_review, find_predictions, read_scores
    from medseg_client.review.labels import LabelSource
    from medseg_client.review.reviewed import file_cases
    from medseg_core.data_errors import UnknownLayoutError

    dice = read_scores(scores) if scores else {}
    try:
        cohort = cases_to_review(data, task)
    except UnknownLayoutError:
        return _material_of_series(data, predictions, dice, task, segment)
    found = find_predictions(predictions, cohort.cases) if predictions else Predictions()
    cases = file_cases(cohort.cases, LabelSource(found, task, segment), cohort.channels)
    return Material(cases, dice, is_predicting=segment is not None)


def _material_of_series(
    data: Path,
    predictions: Path | None,
    dice: dict[str, float],
    task: "Task | None",
    segment: "Segment | None",
) -> "Material":
    """The series of a folder without other images. Raises UnknownLayoutError where there are none, too."""
    from medseg_client.review.answers import Material
    from medseg_client.review.series_cases import series_cases
    from medseg_core.cohort.manifest import read_cohort

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("files", total=None)
        cases = series_cases(
            data, predictions, task, progress=lambda done, n: progress.update(bar, completed=done, total=n)
        )
    if not cases:
        read_cohort(data, task)
    if segment is not None:
        raise click.UsageError("--model takes image files: let medseg-site predict segment DICOM first")
    uncertainty = {case.case_id: case.uncertainty for case in cases if case.uncertainty is not None}
    return Material(cases, dice, uncertainty)


def _segmenting(folder: Path, device: str) -> "tuple[Task, Segment]":
    """A model's task, and the model as a function. Raises MedsegError leaves."""
    from medseg_core.learning.device import choose_device  # torch: seconds to import, so only when needed
    from medseg_core.learning.file_prediction import segment_case
    from medseg_core.learning.model_package import read_model

    model = read_model(folder)
    model.network.to(choose_device(device))
    one_at_a_time = threading.Lock()

    def segment(case: "Case") -> "LabelMap":
        with one_at_a_time:
            return segment_case(model, case).labels

    return model.experiment.task, segment
