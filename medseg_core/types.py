"""The nouns that cross package borders: geometry, volume, case.

Spatial axes are `(i, j, k)`: the fastest axis of the file first, as in ITK, so that index, spacing and
direction columns agree (a radiograph is `(column, row)`). World coordinates are LPS in mm.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

IGNORE = 255  # value in a mapped label map: not annotated here, left out of loss and scores


@dataclass(frozen=True)
class Geometry:
    """Where a voxel grid lies in the world. `spacing_mm` is None for formats that know no millimetres (PNG, JPEG)."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]  # row-major matrix, one column an axis, as ITK's

    @property
    def spacing(self) -> tuple[float, ...]:
        """Spacing for arithmetic: millimetres where they are known, else 1 pixel."""
        return self.spacing_mm or (1.0,) * len(self.shape)


@dataclass(frozen=True)
class Volume:
    """Voxels `(c, i, j[, k])` and their geometry; immutable."""

    voxels: npt.NDArray[Any]
    geometry: Geometry

    def __post_init__(self) -> None:
        assert self.voxels.shape[1:] == self.geometry.shape, (self.voxels.shape, self.geometry.shape)
        self.voxels.flags.writeable = False


@dataclass(frozen=True)
class Case:
    """One image-label pair of a patient, as the manifest names it.

    `images` holds one file for each channel, or one for all; without those of `missing` channels of the task.
    """

    case_id: str
    patient_id: str
    site: str  # "" where the data set has no sites
    images: tuple[Path, ...]
    label: Path | None
    attributes: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[int, ...] = ()  # numbers of optional channels that this case has not


@dataclass(frozen=True)
class LoadedCase:
    """A case opened and checked against its task."""

    case: Case
    image: Volume  # float32 (c, i, j[, k]), in the units of the file
    label: (
        npt.NDArray[np.uint8] | None
    )  # (i, j[, k]): 0 background, 1.. in the order of the task's labels, IGNORE
    warnings: tuple[str, ...] = ()
