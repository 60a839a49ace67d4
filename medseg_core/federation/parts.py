"""Long arrays in parts, on a few cores at once: NumPy lets other threads run while it works on a part."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_PART = 1 << 20  # elements: some milliseconds of work, for some microseconds of handing it over
_THREADS = min(4, os.cpu_count() or 1)  # memory is no faster for more

T = TypeVar("T")


def on_parts(size: int, work: Callable[[slice], T]) -> list[T]:
    """`work` on consecutive parts of an array of so many elements; its results in their order.

    Where the parts are does not depend on the machine.
    """
    parts = [slice(at, min(at + _PART, size)) for at in range(0, size, _PART)]
    if len(parts) < 2 or _THREADS == 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(work, parts))
