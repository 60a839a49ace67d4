"""What SEG and RTSTRUCT become alike: named masks on an image's grid."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


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

    def __post_init__(self) -> None:
        self.mask.flags.writeable = False
