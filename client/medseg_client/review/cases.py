"""Which cases there are to look at, and what belongs to each: predictions by name, scores by identifier."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg_core.cohort.cases import Cohort, require_consistent
from medseg_core.cohort.manifest import read_cohort
from medseg_core.config import Task
from medseg_core.config.section import Name
from medseg_core.data_errors import UnknownLayoutError
from medseg_core.imaging.io import IMAGE_SUFFIXES, file_suffix
from medseg_core.review_errors import PredictionFolderError, ScoresFileError
from medseg_core.types import Case

LIST = "predictions.json"  # beside the segmentations, where `predict` wrote them
_ENDING = "_segmentation"  # of the names that `predict` gives
_ENTROPY = ("_entropy", ".entropy")  # of maps: as `predict` names them, and as people may
_MAPS = (*_ENTROPY, "_disagreement", ".disagreement")


@dataclass(frozen=True)
class Predictions:
    """Segmentations by case, and what their values stand for as far as the folder says it."""

    files: Mapping[str, Path] = field(default_factory=dict)
    entropy: Mapping[str, Path] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)


class _Dice(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    dice: float


class _Scored(BaseModel):
    model_config = ConfigDict(extra="ignore")

    case_id: str
    mean: _Dice


class _Evaluation(BaseModel):
    model_config = ConfigDict(extra="ignore")

    cases: list[_Scored]


class _Label(BaseModel):
    model_config = ConfigDict(extra="ignore")

    value: int


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore")

    labels: dict[Name, _Label]


class _List(BaseModel):
    model_config = ConfigDict(extra="ignore")

    predictions: list[_Entry]


def cases_to_review(data: Path, task: Task | None) -> Cohort:
    """The cohort of a folder or manifest; of a folder that lists none, each image file as `predict` names it.

    Raises ManifestError leaves.
    """
    try:
        return read_cohort(data, task)
    except UnknownLayoutError:
        files = sorted(p for p in data.iterdir() if p.is_file() and _stem(p) and not p.name.startswith("."))
        if not files:
            raise
        cases = tuple(Case(_stem(path), _stem(path), "", (path,), None) for path in files)
        require_consistent(cases, str(data))
        return Cohort(cases, data, "files")


def find_predictions(folder: Path, cases: Sequence[Case]) -> Predictions:
    """The segmentation of each case: a file named by its identifier or, as `predict` does, by its first image.

    Maps of entropy are found likewise; no map is taken for a segmentation.

    Raises PredictionFolderError, also where no file belongs to any case.
    """
    try:
        files = {_stem(path): path for path in sorted(folder.iterdir()) if path.is_file()}
    except OSError as error:
        remedy = "Give the folder that medseg-site predict --out wrote"
        raise PredictionFolderError(folder, f"it cannot be read ({error.strerror})", remedy) from None
    masks = {
        stem.removesuffix(_ENDING): path for stem, path in files.items() if stem and not stem.endswith(_MAPS)
    }
    found = _by_case(masks, cases)
    if not found:
        remedy = f"Name each file after its case, such as {cases[0].case_id}{_ENDING}.nii.gz"
        raise PredictionFolderError(folder, "no file is named after a case or its image", remedy)
    maps = {
        stem.removesuffix(ending): path
        for ending in reversed(_ENTROPY)  # where both are there, the one that `predict` wrote
        for stem, path in files.items()
        if stem.endswith(ending)
    }
    return Predictions(found, _by_case(maps, cases), _names(folder / LIST))


def read_scores(path: Path) -> dict[str, float]:
    """Mean Dice of each case in a file of `evaluate`. Raises ScoresFileError."""
    try:
        found = _Evaluation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ScoresFileError(path, f"it cannot be read ({error.strerror})") from None
    except ValidationError:
        raise ScoresFileError(path, "it names no cases with a mean Dice") from None
    return {case.case_id: case.mean.dice for case in found.cases}


def _by_case(files: Mapping[str, Path], cases: Sequence[Case]) -> dict[str, Path]:
    """Files by case identifier; an image's name counts where one case alone has an image of that name."""
    images = Counter(_stem(case.images[0]) for case in cases)
    found = {}
    for case in cases:
        image = _stem(case.images[0])
        path = files.get(case.case_id) or (files.get(image) if images[image] == 1 else None)
        if path is not None:
            found[case.case_id] = path
    return found


def _names(path: Path) -> dict[int, str]:
    """Value -> label, as the list of predictions has it; nothing where there is no list.

    Raises PredictionFolderError.
    """
    if not path.exists():
        return {}
    try:
        entries = _List.model_validate_json(path.read_bytes()).predictions
    except (OSError, ValidationError):
        remedy = "Remove the list, or let medseg-site predict write the folder anew"
        raise PredictionFolderError(path.parent, f"{LIST} cannot be read", remedy) from None
    return {label.value: name for entry in entries for name, label in entry.labels.items() if label.value}


def _stem(path: Path) -> str:
    """Name less its ending; empty where the ending is none of an image."""
    suffix = file_suffix(path)
    return path.name[: -len(suffix)] if suffix in IMAGE_SUFFIXES else ""
