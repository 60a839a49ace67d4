"""The image of a case on the grid of the screen, whose axes run as a reader looks at them.

3D volumes have axes towards left, posterior and inferior, oblique ones the nearest to these: then in every plane rising
indices go to the right and down, with the patient's right on the left and the head on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from medseg_core.cohort.loading import open_image
from medseg_core.config import Channel, Task
from medseg_core.imaging.geometry import reorient
from medseg_core.types import Case, Geometry, Volume

AXES = "LPI"
_SAMPLE = 2**20  # voxels that percentiles are taken from
_SMALL: tuple[type[np.integer], ...] = (np.uint8, np.int16, np.uint16)


@dataclass(frozen=True)
class Layer:
    """One picture of a case: a channel, or red, green and blue together."""

    name: str
    modality: str
    voxels: npt.NDArray[np.generic]  # (i, j[, k]), colour (i, j, 3), in the units of the file
    is_colour: bool = False

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Least and largest value."""
        return float(self.voxels.min()), float(self.voxels.max())

    @cached_property
    def spread(self) -> tuple[float, float]:
        """Percentiles 1 and 99.5 of the values that are not the least: of an MR, of what is not air."""
        flat = self.voxels.ravel(order="K")
        sample = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float32)
        above = sample[sample > self.extremes[0]]
        if not above.size:
            return self.extremes
        low, high = np.percentile(above, (1, 99.5))
        return float(low), float(high)


@dataclass(frozen=True)
class Picture:
    """The image of a case."""

    layers: tuple[Layer, ...]
    grid: Geometry  # of the screen
    original: Geometry  # of the files


def open_picture(case: Case, task: Task | None, channels: Sequence[str] = ()) -> Picture:
    """The image of a case; `channels` are the names that its list gives. Raises CaseError leaves."""
    image = open_image(case, task)
    known = _channels(len(image.voxels), task, channels)
    is_colour = len(known) == 3 and len(case.images) == 1 and image.voxels.ndim == 3
    return picture_of(image, known, missing=case.missing if task else (), is_colour=is_colour)


def picture_of(
    image: Volume, channels: Sequence[Channel], *, missing: Sequence[int] = (), is_colour: bool = False
) -> Picture:
    """An image `(c, i, j[, k])` as the page shows it, less the channels that are `missing`."""
    shown = to_screen(image)
    if is_colour:
        colours = _smallest(np.moveaxis(shown.voxels, 0, -1))
        layers = [Layer("colour", channels[0].modality, colours, is_colour=True)]
    else:
        layers = [
            Layer(channel.name, channel.modality, _smallest(voxels))
            for n, (channel, voxels) in enumerate(zip(channels, shown.voxels, strict=True))
            if n not in missing
        ]
    return Picture(tuple(layers), shown.geometry, image.geometry)


def to_screen(volume: Volume) -> Volume:
    """A volume along the axes of the screen; a 2D image, and one without millimetres, lies as its file does."""
    is_scan = len(volume.geometry.shape) == 3 and volume.geometry.spacing_mm is not None
    return reorient(volume, AXES) if is_scan else volume


def _channels(n_found: int, task: Task | None, names: Sequence[str]) -> tuple[Channel, ...]:
    """What is known of each channel."""
    if task is not None:
        return task.channels
    if len(names) != n_found:
        names = ["image"] if n_found == 1 else [f"channel-{n + 1}" for n in range(n_found)]
    return tuple(Channel.model_construct(name=name) for name in names)


def _smallest(voxels: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
    """The same values in fewer bytes where they are whole numbers; else as they are."""
    low, high = voxels.min(), voxels.max()
    for kind in _SMALL:
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            small = voxels.astype(kind)
            return small if np.array_equal(small, voxels) else voxels
    return voxels
