"""What SEG and RTSTRUCT become alike: named masks on an image's grid."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Wanted = Callable[
    [str, str], bool
]  # whether to read a segment, by its name and the meaning of its code or ""


def everything(_name: str, _meaning: str) -> bool:
    """Every segment is wanted."""
    return True


@dataclass(frozen=True)
class Code:
    """A coded concept: such as (10200004, SCT, Liver)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Segment:
    """One structure: its name as drawn, codes where it has any, and its mask; printing it shows no name."""

    number: int
    name: str = field(repr=False)
    mask: npt.NDArray[np.bool_] = field(repr=False)  # (i, j[, k]) on the reference's grid
    category: Code | None = field(default=None, repr=False)
    type: Code | None = field(default=None, repr=False)
    is_lost: bool = False  # it has contours, which hold no voxel: points, open lines, or smaller than that

    def __post_init__(self) -> None:
        self.mask.flags.writeable = False

    @property
    def meaning(self) -> str:
        """The meaning of its code, "" where it has none."""
        return self.type.meaning if self.type else ""

    @property
    def step(self) -> int:
        """Slices from one that it fills to the next, where each of three or more is so far from the next; else 1.

        More than 1 is what a structure drawn on thicker slices looks like on thin ones: stripes.
        """
        if self.mask.ndim < 3:
            return 1
        steps = np.diff(np.flatnonzero(self.mask.any(axis=(0, 1))))
        return int(steps[0]) if len(steps) > 1 and (steps == steps[0]).all() else 1
