"""What `predict` leaves of a case in DICOM: a folder of its own, at the site.

    OUT/NAME/prediction.json      state, reasons, uncertainty, volumes and diameters
    OUT/NAME/entropy.nii.gz, disagreement.nii.gz      maps in nats, on the grid of the series
    OUT/NAME/segmentation.dcm, report.dcm             for the PACS

Of a held case prediction.json alone, unless results were asked for all the same.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg_core.errors import OutputExistsError
from medseg_core.files import whole_folder, write_atomic
from medseg_core.imaging.dicom.result_facts import NOTICE, Maker, Meaning
from medseg_core.imaging.dicom.results import REPORT, SEGMENTATION, Found, write_results
from medseg_core.imaging.dicom.scan import Series
from medseg_core.imaging.io import write_image
from medseg_core.learning.model_package import LoadedModel
from medseg_core.learning.series_prediction import Drawn, SeriesPrediction, State

PREDICTION, ENTROPY, DISAGREEMENT = "prediction.json", "entropy.nii.gz", "disagreement.nii.gz"
_REMARKS = {"segmented": "", "flagged": "uncertain", "held": "outside training"}


@dataclass(frozen=True)
class Earlier:
    """What an earlier call left of a case."""

    state: State
    reasons: tuple[str, ...]
    files: tuple[Path, ...]  # for a PACS; none of a case that was held


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    model: dict[str, str]
    series_uids: tuple[str, ...]
    state: State
    reasons: tuple[str, ...]


def read_earlier(folder: Path, model: LoadedModel, series_uids: Sequence[str]) -> Earlier:
    """What this model left of these series in the folder of a case.

    Raises OutputExistsError where it holds anything else.
    """
    try:
        found = _Document.model_validate_json((folder / PREDICTION).read_bytes())
    except (OSError, ValidationError):
        raise OutputExistsError(folder) from None
    files = tuple(folder / name for name in (SEGMENTATION, REPORT) if (folder / name).is_file())
    if found.model != model.identity or found.series_uids != tuple(series_uids) or len(files) == 1:
        raise OutputExistsError(folder, "holds results of another model, or of other images,")
    return Earlier(found.state, found.reasons, files)


def write_prediction(
    folder: Path, model: LoadedModel, series: Sequence[Series], prediction: SeriesPrediction
) -> tuple[Path, ...]:
    """Write the folder of one case, whole or not at all; returns its files for a PACS.

    Raises DataError leaves, UnusableFolderError.
    """
    document = {
        "notice": f"{NOTICE}.",
        "model": model.identity,
        "series_uids": [one.series_uid for one in series],
        **prediction.to_json(),
    }
    made: tuple[Path, ...] = ()
    with whole_folder(folder) as beside:
        write_atomic(beside / PREDICTION, json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")
        if prediction.drawn is not None:
            made = _write_drawn(beside, model, series, prediction, prediction.drawn)
    return tuple(folder / path.name for path in made)


def told(name: str, prediction: SeriesPrediction) -> str:
    """One line for the terminal."""
    drawn, reasons = prediction.drawn, "; ".join(prediction.reasons)
    if drawn is None:
        return _told_held(name, reasons)
    threshold = "no threshold: the model has none"
    if prediction.threshold is not None:
        threshold = f"threshold {prediction.threshold:.3f}"
    sure = f"uncertainty {drawn.uncertainty.score:.3f} ({threshold})"
    if prediction.state == "held":
        return f"{name}: held, {reasons}; segmented all the same, {sure}"
    if prediction.state == "flagged":
        return f"{name}: flagged, look at it with care: {sure}"
    return f"{name}: segmented, {sure}"


def told_earlier(name: str, earlier: Earlier) -> str:
    """One line for the terminal, of a case that is not computed again."""
    if not earlier.files:
        return _told_held(name, "; ".join(earlier.reasons))
    return f"{name}: {earlier.state} by an earlier call, and left as it is"


def _told_held(name: str, reasons: str) -> str:
    return f"{name}: held, {reasons}. No segmentation was written; --force writes one all the same"


def _write_drawn(
    folder: Path, model: LoadedModel, series: Sequence[Series], prediction: SeriesPrediction, drawn: Drawn
) -> tuple[Path, ...]:
    write_image(folder / ENTROPY, drawn.uncertainty.entropy, prediction.geometry)
    write_image(folder / DISAGREEMENT, drawn.uncertainty.disagreement, prediction.geometry)
    task, origin = model.experiment.task, model.provenance
    codes = task.codes or {}
    meanings = tuple(
        Meaning(name, codes[name].category, codes[name].type) if name in codes else Meaning(name)
        for name in task.labels
    )
    maker = Maker(task.name, origin.run, origin.weights_sha256, origin.version)
    found = Found(drawn.labels, meanings, drawn.measurements, _REMARKS[prediction.state])
    return write_results(folder, series[0], found, maker)
