"""Long arrays in parts, on a few cores at once: NumPy lets other threads run while it works on a part."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy.typing as npt

from medseg_core.learning.device import usable_cores

_PART = 1 << 20  # elements: some milliseconds of work, for some microseconds of handing it over
_THREADS = min(4, usable_cores())  # memory is no faster for more

T = TypeVar("T")
Arrays = Sequence[npt.NDArray[Any]]


def on_parts(
    work: Callable[..., T],
    arrays: Mapping[str, Arrays],
    others: Mapping[str, tuple[object, ...]] | None = None,
) -> dict[str, list[T]]:
    """`work` on consecutive parts of the flat arrays of each name, and on its `others` whole; its results in order.

    The arrays of a name have one length. Where the parts are does not depend on the machine.
    """

    def do(parts: Sequence[tuple[str, Arrays]]) -> list[T]:
        return [work(*part, *(others or {}).get(name, ())) for name, part in parts]

    groups = _groups(arrays)
    if len(groups) < 2 or _THREADS == 1:
        done = [do(group) for group in groups]
    else:
        with ThreadPoolExecutor(_THREADS) as threads:
            done = list(threads.map(do, groups))
    found: dict[str, list[T]] = {name: [] for name in arrays}
    for group, results in zip(groups, done, strict=True):
        for (name, _), result in zip(group, results, strict=True):
            found[name].append(result)
    return found


def _groups(arrays: Mapping[str, Arrays]) -> list[list[tuple[str, Arrays]]]:
    """Parts of at most `_PART` elements; small ones together, as many as are not more than that."""
    groups: list[list[tuple[str, Arrays]]] = []
    room = 0
    for name, its in arrays.items():
        for at in range(0, its[0].size, _PART):
            part = [array[at : at + _PART] for array in its]
            if part[0].size > room:
                groups.append([])
                room = _PART
            groups[-1].append((name, part))
            room -= part[0].size
    return groups
