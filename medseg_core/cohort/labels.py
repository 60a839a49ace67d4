"""The values in label files become the task's classes."""

from collections.abc import Mapping
from itertools import chain, count

import numpy as np
import numpy.typing as npt

from medseg_core.config import LabelValues, Task, values_of
from medseg_core.data_errors import UnknownLabelError
from medseg_core.types import IGNORE

_TABLE = 2**16  # widest range of values that is counted and mapped by a table
_WHITE = 255
_BLOCK = 2**24  # voxels counted at a time: bincount works on 64-bit copies


def count_values(labels: npt.NDArray[np.integer]) -> dict[int, int]:
    """Voxels of each value that occurs, in rising order."""
    flat = labels.ravel(order="K")  # as it lies in memory
    low, high = int(flat.min()), int(flat.max())
    if high - low >= _TABLE:
        values, counts = np.unique(flat, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    counts = np.zeros(high - low + 1, np.int64)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.int64) - low
        counts += np.bincount(block, minlength=high - low + 1)
    return {int(index) + low: int(counts[index]) for index in np.flatnonzero(counts)}


def map_labels(labels: npt.NDArray[np.integer], task: Task, *, case_id: str) -> npt.NDArray[np.uint8]:
    """Classes of the same shape: 0 background, 1.. in the order of `task.labels`, IGNORE where not annotated.

    Raises UnknownLabelError for values that the task does not name.
    """
    classes = {value: _class_of(value, task) for value in count_values(labels)}
    if unknown := [value for value, number in classes.items() if number is None]:
        raise UnknownLabelError(case_id, unknown, _known(task))
    low, high = min(classes), max(classes)
    if low < 0 or high >= _TABLE:
        mapped = np.zeros_like(labels, np.uint8)  # in memory as `labels`
        for value, number in classes.items():
            mapped[labels == value] = number or 0
        return mapped
    table = np.zeros(high + 1, np.uint8)
    for value, number in classes.items():
        table[value] = number or 0
    return np.asarray(table[labels], dtype=np.uint8)


def file_values(task: Task) -> npt.NDArray[np.integer]:
    """The value that stands for each class in a label file, background first, in the smallest type that holds all.

    `file_values(task)[classes]` is what a file shows and `map_labels` reads back.

    Of several values a label has its first. A label without a value of its own ("nonzero") has one that means
    nothing else: 255, which viewers of masks show as white, or the lowest.
    """
    taken = {0, task.ignore_value}
    named = taken | {value for wanted in task.labels.values() for value in values_of(wanted)}
    spare = (value for value in chain((_WHITE,), count(1)) if value not in named)
    chosen = [0]
    for wanted in task.labels.values():
        own = next((value for value in values_of(wanted) if value not in taken), None)
        chosen.append(next(spare) if own is None else own)
        taken |= set(values_of(wanted))
    return np.asarray(chosen, np.result_type(*(np.min_scalar_type(value) for value in chosen)))


def label_name(value: int, task: Task | None) -> str | None:
    """What a value in a label file stands for; None is background, a number is a value that nothing names."""
    number = _class_of(value, task) if task else None
    if number is None or task is None:
        return str(value) if value != 0 else None
    if number == IGNORE:
        return "(ignored)"
    return list(task.labels)[number - 1] if number else None


def _class_of(value: int, task: Task) -> int | None:
    if value == task.ignore_value:
        return IGNORE
    for number, wanted in enumerate(task.labels.values(), start=1):
        if value in values_of(wanted):
            return number
    if value == 0 or value in task.background:
        return 0
    return next((n for n, wanted in enumerate(task.labels.values(), start=1) if wanted == "nonzero"), None)


def _known(task: Task) -> list[str]:
    named: Mapping[str, LabelValues] = {"background": (0, *task.background), **task.labels}
    known = [f"{_told(values)} ({name})" for name, values in named.items() if values != ()]
    return known if task.ignore_value is None else [*known, f"{task.ignore_value} (ignored)"]


def _told(values: LabelValues) -> str:
    return "/".join(map(str, values)) if isinstance(values, tuple) else str(values)
