"""From DICOM series to a label map on their own grid, with what it measures and how far it is to be trusted.

Series of one case in, one for each channel of the task; a prediction out. A case that is not of the kind that the model
was trained on is held: nothing is computed for it unless that is asked for. A case that the model is less sure of than
it was of its validation cases is flagged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg_core.cohort.loading import grid_faults, image_faults
from medseg_core.cohort.preprocess import PreprocessedCase, preprocess
from medseg_core.config import Task
from medseg_core.data_errors import ChannelCountError, DimensionError
from medseg_core.imaging.dicom.scan import Series
from medseg_core.imaging.dicom.selection import MODALITIES
from medseg_core.imaging.dicom.series import read_series
from medseg_core.imaging.measurements import Measurements, measure
from medseg_core.learning.file_prediction import memory_guard, segment_prepared
from medseg_core.learning.model_package import LoadedModel
from medseg_core.learning.scope import Scope, range_faults, window_faults
from medseg_core.learning.uncertainty import Uncertainty, on_file, uncertainty_of
from medseg_core.types import Case, Geometry, LoadedCase, Volume

State = Literal["held", "flagged", "segmented"]


@dataclass(frozen=True)
class Drawn:
    """What the model draws on a case, on the grid of the first series."""

    labels: npt.NDArray[np.uint8]  # (i, j, k): 0 background, 1.. in the order of the task's labels
    uncertainty: Uncertainty  # maps (i, j, k)
    measurements: dict[str, Measurements]


@dataclass(frozen=True)
class SeriesPrediction:
    """One case: why it is held, if it is, and what the model draws on it, unless nothing was computed."""

    geometry: Geometry
    reasons: tuple[str, ...]  # why it is held, a phrase each
    threshold: float | None  # above which a score is flagged; None: the model has none
    drawn: Drawn | None

    @property
    def state(self) -> State:
        """Held, though it may have been computed all the same; flagged; or neither."""
        if self.reasons:
            return "held"
        is_flagged = (
            self.drawn is not None
            and self.threshold is not None
            and self.drawn.uncertainty.score > self.threshold
        )
        return "flagged" if is_flagged else "segmented"

    def to_json(self) -> dict[str, Any]:
        """State, reasons, uncertainty and measurements."""
        return {
            "state": self.state,
            "reasons": list(self.reasons),
            "uncertainty": {
                "score": self.drawn.uncertainty.score if self.drawn else None,
                "threshold": self.threshold,
            },
            "labels": {name: found.to_json() for name, found in self.drawn.measurements.items()}
            if self.drawn
            else {},
        }


def predict_series(
    model: LoadedModel, series: Sequence[Series], *, name: str, is_forced: bool = False
) -> SeriesPrediction:
    """The prediction for one case, of one series for each channel; `is_forced` computes held cases, too.

    Deterministic on a CPU. Raises DataError leaves for series that do not serve, SegmentationMemoryError.
    """
    task, scope = model.experiment.task, model.provenance.scope
    case = _prepared(series, task, name)
    reasons = (*modality_faults(series, task), *window_faults(case, task), *range_faults(case, scope, task))
    drawn = None if reasons and not is_forced else _draw(model, case)
    return SeriesPrediction(case.original, reasons, threshold_of(scope), drawn)


def threshold_of(scope: Scope | None) -> float | None:
    """The threshold that came with a model; None for a model of an earlier release or of too few cases."""
    return scope.threshold if scope else None


def modality_faults(series: Sequence[Series], task: Task) -> tuple[str, ...]:
    """Series of another modality than their channel's, a phrase each."""
    return tuple(
        f"channel {channel.name}: its modality is {one.modality or 'not stated'}, trained on was {channel.modality}"
        for one, channel in zip(series, task.channels, strict=True)
        if channel.modality in MODALITIES and one.modality not in MODALITIES[channel.modality]
    )


def _prepared(series: Sequence[Series], task: Task, name: str) -> PreprocessedCase:
    """The series as one case on the task's grid."""
    if len(series) != len(task.channels):
        raise ChannelCountError(name, series[0].files[0].parent, len(series), len(task.channels))
    volumes = [read_series(one) for one in series]
    for volume in volumes:
        if len(volume.geometry.shape) != task.spatial_dims:
            raise DimensionError(name, series[0].files[0].parent, volume.geometry.shape, task.spatial_dims)
    names = [f"channel {channel.name}" for channel in task.channels]
    for (first, our), (second, their) in pairwise(zip(volumes, names, strict=True)):
        for fault in grid_faults(second.geometry, first.geometry, names=(their, our), case_id=name):
            raise fault
    voxels = np.concatenate([volume.voxels for volume in volumes]).astype(np.float32, copy=False)
    image = Volume(voxels, volumes[0].geometry)
    case = Case(name, "", "", tuple(one.files[0] for one in series), None)
    for unusable in image_faults(image, case, task):
        raise unusable
    return preprocess(LoadedCase(case, image, None), task)


def _draw(model: LoadedModel, case: PreprocessedCase) -> Drawn:
    labels = segment_prepared(model, case)
    with memory_guard(case, next(model.network.parameters()).device):
        found = on_file(uncertainty_of([model.network], case, model.experiment), case)
    values = {name: n for n, name in enumerate(model.experiment.task.labels, start=1)}
    return Drawn(labels, found, measure(labels, case.original, values))
