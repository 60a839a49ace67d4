"""Long arrays in parts, on a few cores at once: NumPy lets other threads run while it works on a part."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy.typing as npt

_PART = 1 << 20  # elements: some milliseconds of work, for some microseconds of handing it over
_THREADS = min(4, os.cpu_count() or 1)  # memory is no faster for more

T = TypeVar("T")


def on_parts(work: Callable[..., T], arrays: Sequence[npt.NDArray[Any]], *others: object) -> list[T]:
    """`work` on consecutive parts of flat arrays of one length, and on `others` whole; its results in their order.

    Where the parts are does not depend on the machine.
    """
    parts = [[a[at : at + _PART] for a in arrays] for at in range(0, arrays[0].size, _PART)]
    if len(parts) < 2 or _THREADS == 1:
        return [work(*part, *others) for part in parts]
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(lambda part: work(*part, *others), parts))
