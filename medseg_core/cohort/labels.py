"""The values in label files become the task's classes."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from medseg_core.config import LabelValues, Task
from medseg_core.data_errors import UnknownLabelError
from medseg_core.types import IGNORE

_TABLE = 2**16  # widest range of values that is counted and mapped by a table
_BLOCK = 2**24  # voxels counted at a time: bincount works on 64-bit copies


def count_values(labels: npt.NDArray[np.integer]) -> dict[int, int]:
    """Voxels of each value that occurs, in rising order."""
    flat = labels.ravel()
    low, high = int(flat.min()), int(flat.max())
    if low < 0 or high >= _TABLE:
        values, counts = np.unique(flat, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    counts = np.zeros(high + 1, np.int64)
    for start in range(0, flat.size, _BLOCK):
        counts += np.bincount(flat[start : start + _BLOCK], minlength=high + 1)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def map_labels(
    labels: npt.NDArray[np.integer], task: Task, *, case_id: str, lossy: bool = False
) -> npt.NDArray[np.uint8]:
    """Classes of the same shape: 0 background, 1.. in the order of `task.labels`, IGNORE where not annotated.

    Raises UnknownLabelError for values that the task does not name.
    """
    values = list(count_values(labels))
    classes = [_class_of(value, task) for value in values]
    unknown = [value for value, found in zip(values, classes, strict=True) if found is None]
    if unknown:
        raise UnknownLabelError(case_id, unknown, _known(task), lossy=lossy)
    if values[0] >= 0 and values[-1] < _TABLE:
        table = np.zeros(values[-1] + 1, np.uint8)
        table[values] = classes
        return table[labels]
    mapped = np.zeros(labels.shape, np.uint8)
    for value, found in zip(values, classes, strict=True):
        mapped[labels == value] = found
    return mapped


def _class_of(value: int, task: Task) -> int | None:
    if value == task.ignore_value:
        return IGNORE
    for number, wanted in enumerate(task.labels.values(), start=1):
        if wanted != "nonzero" and value in _values(wanted):
            return number
    if value == 0:
        return 0
    return next((n for n, wanted in enumerate(task.labels.values(), start=1) if wanted == "nonzero"), None)


def _values(wanted: LabelValues) -> tuple[int, ...]:
    return (wanted,) if isinstance(wanted, int) else tuple(v for v in wanted if isinstance(v, int))


def _known(task: Task) -> list[str]:
    named: Mapping[str, LabelValues] = {"background": 0, **task.labels}
    known = [f"{_told(values)} ({name})" for name, values in named.items()]
    return known if task.ignore_value is None else [*known, f"{task.ignore_value} (ignored)"]


def _told(values: LabelValues) -> str:
    return "/".join(map(str, values)) if isinstance(values, tuple) else str(values)
