"""A case is opened and checked against its task."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from medseg_core.cohort.labels import map_labels
from medseg_core.config import Task
from medseg_core.data_errors import (
    ChannelCountError,
    ConstantImageError,
    EmptyLabelError,
    GeometryMismatchError,
    MissingChannelError,
    MissingLabelError,
    NotFiniteError,
)
from medseg_core.errors import CaseError
from medseg_core.imaging.io import file_suffix, read_image, read_label
from medseg_core.imaging.orientation import orientation_doubt
from medseg_core.types import IGNORE, Case, Geometry, LoadedCase, Volume

# Two headers mean one grid within these: the formats' own rounding passes, a shift that one could see does not.
SPACING_TOLERANCE = 1e-3  # relative; headers rounded to 3 digits differ by 5e-4
ORIGIN_TOLERANCE = 0.1  # voxels; the mistakes that occur (corner for centre) are half a voxel and more
DIRECTION_TOLERANCE = 1e-3  # cosine; NIfTI's float32 quaternion is good to 5e-4


def load_case(case: Case, task: Task, *, needs_label: bool = True) -> LoadedCase:
    """The case's image in the file's units and its label as classes.

    Raises the CaseError leaf of the first fault found.
    """
    image = open_image(case, task)
    _raise_first(image_faults(image, case, task))
    if case.label is None and not needs_label:
        return LoadedCase(case, image, None)
    raw = open_label(case, task)
    _raise_first(grid_faults(raw.geometry, image.geometry, names=("label", "image"), case_id=case.case_id))
    label = map_labels(raw.voxels[0], task, case_id=case.case_id)
    return LoadedCase(case, image, label, label_warnings(label, case, task))


def open_image(case: Case, task: Task | None) -> Volume:
    """All channels of a case on one grid, float32 `(c, i, j[, k])`, a missing one as zeros; without a task as found.

    Raises CaseError leaves.
    """
    found = _open_files(case, task)
    if task is None or not case.missing:
        return found
    voxels = np.zeros((len(task.channels), *found.geometry.shape), np.float32)
    voxels[[n for n in range(len(voxels)) if n not in case.missing]] = found.voxels
    return Volume(voxels, found.geometry)


def _open_files(case: Case, task: Task | None) -> Volume:
    """The channels that a case has files of."""
    dims, expected = (task.spatial_dims, len(task.channels) - len(case.missing)) if task else (None, None)
    for number in case.missing:
        if task and not task.channels[number].optional:
            raise MissingChannelError(case.case_id, task.channels[number].name)
    if len(case.images) == 1:
        return read_image(case.images[0], spatial_dims=dims, channels=expected, case_id=case.case_id)
    if expected not in (None, len(case.images)):
        raise ChannelCountError(case.case_id, case.images[0].parent, len(case.images), expected or 0)
    volumes = [read_image(path, spatial_dims=dims, channels=1, case_id=case.case_id) for path in case.images]
    first = volumes[0].geometry
    for path, volume in zip(case.images[1:], volumes[1:], strict=True):
        names = (f"channel {path.name}", f"channel {case.images[0].name}")
        _raise_first(grid_faults(volume.geometry, first, names=names, case_id=case.case_id))
    return Volume(np.concatenate([volume.voxels for volume in volumes]), first)


def open_label(case: Case, task: Task | None) -> Volume:
    """The label file's own values `(1, i, j[, k])`. Raises MissingLabelError and other CaseError leaves."""
    if case.label is None:
        raise MissingLabelError(case.case_id)
    return read_label(case.label, spatial_dims=task.spatial_dims if task else None, case_id=case.case_id)


def image_faults(image: Volume, case: Case, task: Task | None) -> Iterator[CaseError]:
    """What is wrong with the intensities: NaN, infinite, constant."""
    for number, voxels in enumerate(image.voxels):
        if number in case.missing:
            continue
        name = f"channel {task.channels[number].name if task else number}"
        low, high = float(voxels.min()), float(voxels.max())
        if not np.isfinite([low, high]).all():
            yield NotFiniteError(case.case_id, name, int(np.count_nonzero(~np.isfinite(voxels))))
        elif low == high:
            yield ConstantImageError(case.case_id, name, low)


def grid_faults(
    ours: Geometry, theirs: Geometry, *, names: tuple[str, str], case_id: str
) -> Iterator[GeometryMismatchError]:
    """Where shape, spacing, direction or origin differ; shape alone where one file knows no millimetres."""
    if ours.shape != theirs.shape:
        yield GeometryMismatchError(
            case_id, "shape", names=names, values=(str(ours.shape), str(theirs.shape))
        )
        return
    if ours.spacing_mm is None or theirs.spacing_mm is None:
        return
    spacing, direction = np.asarray(theirs.spacing), np.reshape(theirs.direction, (len(theirs.shape), -1))
    shift_voxels = direction.T @ np.subtract(ours.origin_mm, theirs.origin_mm) / spacing
    if np.abs(np.asarray(ours.spacing) / spacing - 1).max() > SPACING_TOLERANCE:
        values = (f"{_told(ours.spacing)} mm", f"{_told(theirs.spacing)} mm")
        yield GeometryMismatchError(case_id, "spacing", names=names, values=values)
    if np.abs(np.subtract(ours.direction, theirs.direction)).max() > DIRECTION_TOLERANCE:
        values = (_told(ours.direction), _told(theirs.direction))
        yield GeometryMismatchError(case_id, "direction", names=names, values=values)
    elif np.abs(shift_voxels).max() > ORIGIN_TOLERANCE:  # a mirrored file has its origin elsewhere too
        values = (f"{_told(ours.origin_mm)} mm", f"{_told(theirs.origin_mm)} mm")
        yield GeometryMismatchError(case_id, "origin", names=names, values=values)


def label_warnings(label: npt.NDArray[np.uint8], case: Case, task: Task) -> tuple[str, ...]:
    """What is odd about mapped classes. Raises EmptyLabelError where the task forbids what is else odd."""
    if np.any((label > 0) & (label != IGNORE)):
        return ()
    if not task.allow_empty_label:
        raise EmptyLabelError(case.case_id)
    return (f"case {case.case_id}: the label has no foreground voxel",)


def orientation_warnings(case: Case) -> tuple[str, ...]:
    """What stands against believing where left is in the case's image, which has been opened."""
    nifti = [path for path in case.images if file_suffix(path) in (".nii", ".nii.gz")]
    doubts = [(path, doubt) for path in nifti if (doubt := orientation_doubt(path))]
    return tuple(
        f"case {case.case_id}: {path}: {doubt}. Look at it beside its label" for path, doubt in doubts
    )


def _raise_first(faults: Iterable[CaseError]) -> None:
    for fault in faults:
        raise fault


def _told(numbers: tuple[float, ...]) -> str:
    return f"({', '.join(f'{n + 0.0:.5g}' for n in numbers)})"
