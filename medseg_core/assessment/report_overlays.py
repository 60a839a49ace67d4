"""Outlines of truth and prediction on a slice of the image, as parts of an inline SVG."""

import base64
import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator
from PIL import Image
from scipy import ndimage

from medseg_core.types import IGNORE

LARGEST_PX = 448  # of a picture's longer side: sharp on paper, and some 30 kB
LOSSLESS_PX = 128  # up to here a picture is kept without loss
TILE_PX = 160  # about the size of a picture on a screen
THIN = 0.4  # share of inner pixels below which a structure counts as thin: a disc of 3 pixels radius
WINDOW = 1.8  # the part shown, in sides of the box around truth and prediction ..
SMALLEST_WINDOW = 0.4  # .. but never less than this share of the image, so that the place can be recognised

ARRAYS = ("image", "truth", "prediction")

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Overlay:
    """One slice ready to be drawn: `width` by `height`, image as data URI, outlines as SVG paths of half steps."""

    width: float
    height: float
    image: str
    truth: str
    prediction: str
    half_step: tuple[float, float]  # what one unit of the paths is in units of width and height
    is_thin: bool  # vessels and the like, whose outlines would run into each other: better filled


def read_overlay(path: Path) -> Overlay | None:
    """The picture in an `overlays/*.npz`: image (i, j[, 3]), truth and prediction (i, j). None if damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            image, truth, prediction = (np.asarray(arrays[name], dtype=np.uint8) for name in ARRAYS)
            aspect = float(arrays["aspect"])  # height of a pixel by its width
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    is_picture = image.shape in (truth.shape, (*truth.shape, 3)) and truth.ndim == 2 and truth.size > 0
    if not is_picture or truth.shape != prediction.shape or not 0 < aspect < math.inf:
        return None
    return _overlay(image.swapaxes(0, 1), truth.T, prediction.T, aspect)


def _overlay(image: Pixels, truth: Pixels, prediction: Pixels, aspect: float) -> Overlay:
    """Rows first from here: (j, i) as a screen shows them."""
    structure = (truth > 0) & (truth != IGNORE) | (prediction > 0)
    box = _window(structure)
    step = math.ceil(max(part.stop - part.start for part in box) / LARGEST_PX)
    shown = image[box]
    height, width = shown.shape[:2]
    return Overlay(
        width=float(width),
        height=height * aspect,
        image=_data_uri(shown, step),
        truth=_outlines(truth[box], step),
        prediction=_outlines(prediction[box], step),
        half_step=(step / 2, step / 2 * aspect),
        is_thin=_is_thin(_reduced(structure[box], math.ceil(max(height, width) / TILE_PX))),
    )


def _window(structure: Mask) -> tuple[slice, slice]:
    """A window around the structure, large enough to recognise where it is; all of the image without one."""
    rows, columns = np.flatnonzero(structure.any(1)), np.flatnonzero(structure.any(0))
    if not len(rows):
        return slice(0, structure.shape[0]), slice(0, structure.shape[1])
    side = max(WINDOW * max(np.ptp(rows), np.ptp(columns)), SMALLEST_WINDOW * max(structure.shape))
    parts = []
    for found, length in zip((rows, columns), structure.shape, strict=True):
        wanted = min(length, math.ceil(side))
        start = min(max(0, int(found[0] + found[-1] + 1 - wanted) // 2), length - wanted)
        parts.append(slice(start, start + wanted))
    return parts[0], parts[1]


def _is_thin(structure: Mask) -> bool:
    """Whether most of the structure is edge, at the size at which it is shown."""
    return bool(ndimage.binary_erosion(structure).sum() < THIN * structure.sum())


def _data_uri(image: Pixels, step: int) -> str:
    """The image, reduced `step` times, inside the page."""
    picture = Image.fromarray(image).reduce(step)
    kind = "PNG" if max(picture.size) <= LOSSLESS_PX else "JPEG"
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _outlines(labels: Pixels, step: int) -> str:
    """SVG path around each label, in half steps."""
    values = [value for value in np.unique(labels) if value not in (0, IGNORE)]
    return "".join(_outline(_reduced(labels == value, step)) for value in values)


def _reduced(mask: Mask, step: int) -> Mask:
    """Blocks of `step` by `step` pixels, set where at least half of them are: thin vessels stay."""
    rows, columns = (math.ceil(n / step) for n in mask.shape)
    padded = np.zeros((rows * step, columns * step), dtype=bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(padded.reshape(rows, step, columns, step).mean((1, 3)) >= 0.5)


def _outline(mask: Mask) -> str:
    """Closed path between the pixels inside and outside, which is where contours of 0 and 1 run: half-way."""
    lines = contour_generator(z=np.pad(mask, 1).astype(np.float64)).lines(0.5)
    return "".join(_path(np.rint(2 * np.asarray(line) - 1).astype(np.int64)) for line in lines)


def _path(points: npt.NDArray[np.int64]) -> str:
    """Move to the first point, lines to the corners, close."""
    steps = np.diff(points, axis=0)
    turns = np.any(steps[1:] != steps[:-1], axis=1)
    corners = np.concatenate([points[:1], points[1:-1][turns]])
    return f"M{' '.join(map(str, corners.ravel().tolist()))}Z"
