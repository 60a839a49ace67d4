"""A case is opened and checked against its task."""

import numpy as np
import numpy.typing as npt

from medseg_core.cohort.labels import map_labels
from medseg_core.config import Task
from medseg_core.data_errors import (
    ChannelCountError,
    ConstantImageError,
    EmptyLabelError,
    GeometryMismatchError,
    MissingLabelError,
    NotFiniteError,
)
from medseg_core.imaging.io import file_suffix, read_image, read_label
from medseg_core.types import IGNORE, Case, Geometry, LoadedCase, Volume

# Two headers say the same grid within these: the files' own rounding passes, a shift that a reader would see does not.
SPACING_TOLERANCE = 1e-3  # relative; headers rounded to 3 digits differ by 5e-4
ORIGIN_TOLERANCE = 0.1  # voxels; the mistakes that occur (corner for centre) are half a voxel and more
DIRECTION_TOLERANCE = 1e-3  # cosine; NIfTI's float32 quaternion is good to 5e-4


def load_case(case: Case, task: Task, *, needs_label: bool = True) -> LoadedCase:
    """The case's image in the file's units and its label as classes. Raises CaseError leaves, the first fault found."""
    image = open_image(case, task)
    require_sound_image(image, case, task)
    if case.label is None:
        if needs_label:
            raise MissingLabelError(case.case_id)
        return LoadedCase(case, image, None)
    raw = read_label(case.label, spatial_dims=task.spatial_dims, case_id=case.case_id)
    require_same_grid(raw.geometry, image.geometry, names=("label", "image"), case_id=case.case_id)
    is_lossy = file_suffix(case.label).lower() in (".jpg", ".jpeg")
    label = map_labels(raw.voxels[0], task, case_id=case.case_id, lossy=is_lossy)
    return LoadedCase(case, image, label, _label_warnings(label, case, task))


def open_image(case: Case, task: Task | None) -> Volume:
    """All channels of a case on one grid, float32 `(c, i, j[, k])`; without a task as found. Raises CaseError leaves."""
    dims, expected = (task.spatial_dims, len(task.channels)) if task else (None, None)
    if len(case.images) == 1:
        return read_image(case.images[0], spatial_dims=dims, channels=expected, case_id=case.case_id)
    if expected not in (None, len(case.images)):
        raise ChannelCountError(case.case_id, case.images[0].parent, len(case.images), expected or 0)
    volumes = [read_image(path, spatial_dims=dims, channels=1, case_id=case.case_id) for path in case.images]
    first = volumes[0].geometry
    for path, volume in zip(case.images[1:], volumes[1:], strict=True):
        names = (f"channel {path.name}", f"channel {case.images[0].name}")
        require_same_grid(volume.geometry, first, names=names, case_id=case.case_id)
    return Volume(np.concatenate([volume.voxels for volume in volumes]), first)


def require_sound_image(image: Volume, case: Case, task: Task | None) -> None:
    """Every channel is finite and not constant. Raises NotFiniteError, ConstantImageError."""
    for number, voxels in enumerate(image.voxels):
        name = f"channel {task.channels[number].name if task else number}"
        low, high = float(voxels.min()), float(voxels.max())
        if not np.isfinite([low, high]).all():
            raise NotFiniteError(case.case_id, name, int(np.count_nonzero(~np.isfinite(voxels))))
        if low == high:
            raise ConstantImageError(case.case_id, name, low)


def require_same_grid(ours: Geometry, theirs: Geometry, *, names: tuple[str, str], case_id: str) -> None:
    """Shape, spacing, origin and direction agree; where one knows no millimetres, shape alone. Raises GeometryMismatchError."""
    for quantity, values in _grid_differences(ours, theirs):
        raise GeometryMismatchError(case_id, quantity, names=names, values=values)


def _grid_differences(ours: Geometry, theirs: Geometry) -> list[tuple[str, tuple[str, str]]]:
    if ours.shape != theirs.shape:
        return [("shape", (str(ours.shape), str(theirs.shape)))]
    if ours.spacing_mm is None or theirs.spacing_mm is None:
        return []
    spacing = np.asarray(theirs.spacing)
    shift = np.reshape(theirs.direction, (len(spacing), -1)).T @ np.subtract(ours.origin_mm, theirs.origin_mm)
    found = []
    if np.abs(np.asarray(ours.spacing) / spacing - 1).max() > SPACING_TOLERANCE:
        found.append(("spacing", (_mm(ours.spacing), _mm(theirs.spacing))))
    if np.abs(np.subtract(ours.direction, theirs.direction)).max() > DIRECTION_TOLERANCE:
        found.append(("direction", (_plain(ours.direction), _plain(theirs.direction))))
    if np.abs(shift / spacing).max() > ORIGIN_TOLERANCE:
        found.append(("origin", (_mm(ours.origin_mm), _mm(theirs.origin_mm))))
    return found


def _plain(numbers: tuple[float, ...]) -> str:
    return f"({', '.join(f'{n:.5g}' for n in numbers)})"


def _mm(numbers: tuple[float, ...]) -> str:
    return f"{_plain(numbers)} mm"


def _label_warnings(label: npt.NDArray[np.uint8], case: Case, task: Task) -> tuple[str, ...]:
    """Raises EmptyLabelError where the task forbids what is otherwise a warning."""
    if np.any((label > 0) & (label != IGNORE)):
        return ()
    if not task.allow_empty_label:
        raise EmptyLabelError(case.case_id)
    return (f"case {case.case_id}: the label has no foreground voxel",)
