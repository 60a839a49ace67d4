"""Truth and prediction of a case on the grid of the screen, as classes that the two have in common."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg_client.review.cases import Predictions
from medseg_client.review.pictures import Picture, to_screen
from medseg_core.cohort.labels import count_values, map_labels
from medseg_core.cohort.loading import grid_faults
from medseg_core.config import Channel, LabelValues, Task
from medseg_core.data_errors import UnreadableFileError
from medseg_core.imaging.io import read_image, read_label
from medseg_core.types import Case, Volume

LabelMap = npt.NDArray[np.uint8]
Segment = Callable[[Case], LabelMap]  # (i, j[, k]) on the grid of the case's files, classes of the task
_MOST_LABELS = 200  # as a task may have


@dataclass(frozen=True)
class Labels:
    """The label maps of a case: 0 background, 1.. in the order of `names`, IGNORE where the truth is not annotated."""

    names: tuple[str, ...]
    truth: LabelMap | None = None
    prediction: LabelMap | None = None
    entropy: npt.NDArray[np.float32] | None = None
    is_comparable: bool = True  # else truth and prediction have no name in common


@dataclass(frozen=True)
class LabelSource:
    """Where label maps come from: files in the task's values or, without a task, in those that `predict` listed."""

    predictions: Predictions
    task: Task | None = None
    segment: Segment | None = None  # instead of files of predictions; goes with a task

    def open(self, case: Case, picture: Picture) -> Labels:
        """What there is of a case. Raises CaseError leaves, and what `segment` raises."""
        files = {"truth": case.label, "prediction": self.predictions.files.get(case.case_id)}
        raw = {what: _read(path, what, case, picture) for what, path in files.items() if path is not None}
        values = {what: set(count_values(volume.voxels[0])) - {0} for what, volume in raw.items()}
        task = self.task or _task_of(values, self.predictions.names, case)
        classes = {
            what: map_labels(volume.voxels[0], task, case_id=case.case_id) if task else _background(volume)
            for what, volume in raw.items()
        }
        if self.segment is not None:
            classes["prediction"] = self.segment(case)
        maps = {what: _turned(found, picture) for what, found in classes.items()}
        names = tuple(task.labels) if task else ()
        said = values.get("prediction", set()) | self.predictions.names.keys()
        is_comparable = self.task is not None or share_a_name(values.get("truth", ()), said)
        return Labels(names, **maps, entropy=self._entropy(case, picture), is_comparable=is_comparable)

    def _entropy(self, case: Case, picture: Picture) -> npt.NDArray[np.float32] | None:
        path = self.predictions.entropy.get(case.case_id)
        return None if path is None else read_entropy(path, case.case_id, picture)


def share_a_name(truth: Collection[object], prediction: Collection[object]) -> bool:
    """Whether the names, or values, of a truth and of a prediction can mean the same; those of nothing can."""
    return not truth or not prediction or not set(truth).isdisjoint(prediction)


def read_entropy(path: Path, case_id: str, picture: Picture) -> npt.NDArray[np.float32]:
    """A map of uncertainty on the grid of the screen. Raises CaseError leaves."""
    volume = read_image(path, spatial_dims=len(picture.original.shape), channels=1, case_id=case_id)
    _require_same_grid(volume, "entropy", case_id, picture)
    return np.asarray(to_screen(volume).voxels[0], np.float32)


def _read(path: Path, what: str, case: Case, picture: Picture) -> Volume:
    volume = read_label(path, spatial_dims=len(picture.original.shape), case_id=case.case_id)
    _require_same_grid(volume, what, case.case_id, picture)
    return volume


def _require_same_grid(volume: Volume, what: str, case_id: str, picture: Picture) -> None:
    names = (what, "image")
    for fault in grid_faults(volume.geometry, picture.original, names=names, case_id=case_id):
        raise fault


def _turned(classes: LabelMap, picture: Picture) -> LabelMap:
    """Classes on the grid of the files, on that of the screen."""
    return np.asarray(to_screen(Volume(classes[None], picture.original)).voxels[0], np.uint8)


def _background(volume: Volume) -> LabelMap:
    return np.zeros_like(volume.voxels[0], np.uint8)


def _task_of(found: Mapping[str, set[int]], names: Mapping[int, str], case: Case) -> Task | None:
    """A task that names the listed values and every other one that occurs; None where there is no label at all.

    Raises UnreadableFileError for files that hold an image.
    """
    values = set().union(*found.values())
    labels: dict[str, LabelValues] = {label: value for value, label in names.items()}
    labels |= {f"value_{value}": value for value in sorted(values - names.keys())}
    if len(labels) > _MOST_LABELS:
        fault = f"holds {len(values)} different values where labels are expected"
        raise UnreadableFileError(
            case.case_id, case.label or case.images[0], fault, "Name its label file in the list of cases."
        )
    if not labels:
        return None
    return Task(name="review", spatial_dims=3, channels=(Channel(name="image"),), labels=labels)
