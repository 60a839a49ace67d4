"""Cases of DICOM: the series of a folder, what was drawn on them there, and what `predict` left of them.

PREDICTIONS/NAME/prediction.json     which series, and how uncertain
PREDICTIONS/NAME/segmentation.dcm    DICOM SEG
PREDICTIONS/NAME/entropy.nii.gz      map of uncertainty, if there is one
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from medseg_client.review.labels import LabelMap, Labels, read_entropy, share_a_name
from medseg_client.review.pictures import Picture, picture_of, to_screen
from medseg_core.cohort.loading import grid_faults
from medseg_core.config import Channel, Task
from medseg_core.dicom_errors import SegmentationError
from medseg_core.imaging.dicom.result_facts import MAKER
from medseg_core.imaging.dicom.scan import Series, scan
from medseg_core.imaging.dicom.segmentation import read_segmentation
from medseg_core.imaging.dicom.segments import Segment
from medseg_core.imaging.dicom.selection import label_of
from medseg_core.imaging.dicom.series import read_series
from medseg_core.imaging.dicom.structures import read_structures
from medseg_core.review_errors import PredictionFolderError
from medseg_core.types import Volume

RESULT, SEGMENTATION, ENTROPY = "prediction.json", "segmentation.dcm", "entropy.nii.gz"
_MOST_LABELS = 200  # as a task may have
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class SeriesCase:
    """One series, or one for each channel."""

    case_id: str
    series: tuple[Series, ...]
    task: Task | None = None
    drawings: tuple[Series, ...] = ()  # SEG and RTSTRUCT of the first series
    results: Path | None = None  # the folder that `predict` left of it
    uncertainty: float | None = None

    @property
    def about(self) -> str:
        """What the first series is called."""
        return self.series[0].description

    @property
    def has_truth(self) -> bool:
        """Whether something in the folder was drawn on it."""
        return bool(self.drawings)

    @property
    def has_prediction(self) -> bool:
        """Whether `predict` wrote a segmentation."""
        return self.results is not None and (self.results / SEGMENTATION).is_file()

    def picture(self) -> Picture:
        """The series on one grid, a channel each."""
        volumes = [read_series(one) for one in self.series]
        first = volumes[0].geometry
        for n, volume in enumerate(volumes[1:], start=2):
            names = (f"channel {n}", "channel 1")
            for fault in grid_faults(volume.geometry, first, names=names, case_id=self.case_id):
                raise fault
        image = Volume(np.concatenate([volume.voxels for volume in volumes]), first)
        return picture_of(image, self._channels())

    def labels(self, picture: Picture) -> Labels:
        """What was drawn and predicted, by name or as the task's labels; of overlapping ones the last shows."""
        drawn = {}
        if self.has_truth:
            drawn["truth"] = list(self._named(self._truth(picture)))
        if self.results is not None and self.has_prediction:
            found = read_segmentation(self.results / SEGMENTATION, picture.original, drawn_on=self.series[0])
            drawn["prediction"] = list(self._named(found))
        named = dict.fromkeys(name for segments in drawn.values() for name, _ in segments)
        names = tuple(self.task.labels) if self.task else tuple(named)
        if len(names) > _MOST_LABELS:
            fault = f"{len(names)} structures are drawn on it, more than can be told apart"
            raise SegmentationError(str(self.series[0]), fault)
        said = [{name for name, _ in drawn.get(what, ())} for what in ("truth", "prediction")]
        maps = {what: _label_map(segments, names, picture) for what, segments in drawn.items()}
        entropy = self.results / ENTROPY if self.results is not None else None
        is_there = entropy is not None and entropy.is_file()
        return Labels(
            names,
            **maps,
            entropy=read_entropy(entropy, self.case_id, picture) if entropy and is_there else None,
            is_comparable=self.task is not None or share_a_name(*said),
        )

    def _channels(self) -> tuple[Channel, ...]:
        if self.task is not None and len(self.task.channels) == len(self.series):
            return self.task.channels
        return tuple(
            Channel.model_construct(name=one.modality or "image", modality=one.modality)
            for one in self.series
        )

    def _truth(self, picture: Picture) -> Iterator[Segment]:
        for drawing in self.drawings:
            read = read_structures if drawing.modality == "RTSTRUCT" else read_segmentation
            for path in drawing.files:
                yield from read(path, picture.original, drawn_on=self.series[0])

    def _named(self, segments: Sequence[Segment] | Iterator[Segment]) -> Iterator[tuple[str, Segment]]:
        """Segments with the label that each is; those that the task does not ask for are left out."""
        for segment in segments:
            if self.task is None:
                yield segment.name.strip() or f"segment {segment.number}", segment
            elif (number := label_of(segment.name, segment.meaning, self.task)) is not None:
                yield list(self.task.labels)[number - 1], segment


class _Uncertainty(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    score: float | None = None


class _Result(BaseModel):
    model_config = ConfigDict(extra="ignore")

    series_uids: list[str]
    uncertainty: _Uncertainty = _Uncertainty()


def series_cases(
    data: Path,
    predictions: Path | None,
    task: Task | None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SeriesCase, ...]:
    """The cases that `predict` left results of, by their names; every other series as MODALITY-1 and so on.

    What a model of medseg drew, such as results fetched back from the PACS, is no truth.
    `progress` is told files looked at and files in all.
    Raises NotDicomError, PredictionFolderError.
    """
    found = scan(data, progress=progress)
    by_uid = {one.series_uid: one for one in found.series}
    drawings: dict[str, list[Series]] = defaultdict(list)
    for drawing in (*found.segmentations, *found.structures):
        for uid in drawing.referenced_series_uids if drawing.manufacturer != MAKER else ():
            drawings[uid].append(drawing)
    cases: dict[str, SeriesCase] = {}
    for folder, result in _results(predictions) if predictions else ():
        series = tuple(by_uid.pop(uid) for uid in result.series_uids if uid in by_uid)
        if series and len(series) == len(result.series_uids):
            drawn, score = tuple(drawings[series[0].series_uid]), result.uncertainty.score
            name = _free_name(folder.name, cases)
            cases[name] = SeriesCase(name, series, task, drawn, folder, score)
    if predictions and not cases:
        remedy = "Give the folder that medseg-site predict --out wrote for series of this one"
        raise PredictionFolderError(predictions, f"no {RESULT} in it is of a series in {data}", remedy)
    for one in by_uid.values():
        name = _free_name(f"{one.modality or 'image'}-1", cases)
        cases[name] = SeriesCase(name, (one,), task, tuple(drawings[one.series_uid]))
    return tuple(cases.values())


def _free_name(wanted: str, taken: Collection[str]) -> str:
    """A name that is safe in an address: what is wanted, as far as that goes, with a number where it is taken."""
    safe = _UNSAFE.sub("_", wanted).strip("_.-")[:64] or "case"
    stem = safe.removesuffix("-1")
    return next(name for name in chain([safe], (f"{stem}-{n}" for n in count(2))) if name not in taken)


def _results(folder: Path) -> Iterator[tuple[Path, _Result]]:
    """Folders of results. Raises PredictionFolderError."""
    try:
        paths = sorted(path for path in folder.iterdir() if (path / RESULT).is_file())
    except OSError as error:
        remedy = "Give the folder that medseg-site predict --out wrote"
        raise PredictionFolderError(folder, f"it cannot be read ({error.strerror})", remedy) from None
    for path in paths:
        try:
            result = _Result.model_validate_json((path / RESULT).read_bytes())
        except (OSError, ValidationError):
            remedy = "Remove that folder, or let medseg-site predict write it anew"
            raise PredictionFolderError(folder, f"{path.name}/{RESULT} cannot be read", remedy) from None
        yield path, result


def _label_map(segments: Sequence[tuple[str, Segment]], names: Sequence[str], picture: Picture) -> LabelMap:
    """Segments as classes on the grid of the screen."""
    classes = np.zeros(picture.original.shape, np.uint8)
    for name, segment in segments:
        classes[segment.mask] = names.index(name) + 1
    return np.asarray(to_screen(Volume(classes[None], picture.original)).voxels[0], np.uint8)
