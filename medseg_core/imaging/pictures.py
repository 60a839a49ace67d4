"""Picture files by Pillow and tifffile.

SimpleITK knows no GIF and no PPM, takes palettes for colours, scrambles TIFFs of many channels and fills what a
cut JPEG lacks. It is asked for 16-bit colour PNG alone, which Pillow would reduce to 8 bits.
Black-and-white files read as 0 and 255. Pictures know no millimetres: what some claim is a print's resolution.
"""

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from medseg_core.data_errors import LossyLabelError, UnreadableFileError
from medseg_core.imaging.integrity import require_bounded
from medseg_core.imaging.itk import decode
from medseg_core.types import Geometry, Volume

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".gif", ".bmp")
_FORMATS = ("PNG", "JPEG", "TIFF", "PPM", "GIF", "BMP")  # Pillow knows more, some of which run other programs
# What Pillow and tifffile raise over damaged bytes; found by changing bytes at random
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    Warning,
    struct.error,
    zlib.error,
)
_ORIENTATION_TAG = 274  # the same number in TIFF and EXIF

Image.MAX_IMAGE_PIXELS = None  # sizes are bounded here, for every format alike, before pixels are decoded
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # faults are told in our words


def read_picture(path: Path, case_id: str, *, is_label: bool) -> Volume:
    """A picture as `(c, i, j)`, a stack of TIFF pages as `(c, i, j, k)`, in the file's own type.

    Labels with a colour palette are read as the numbers of the colours. Raises CaseError leaves.
    """
    is_tiff = path.suffix.lower() in (".tif", ".tiff")
    try:
        pixels = _read_tiff(path, case_id, is_label) if is_tiff else _read_pillow(path, case_id, is_label)
    except _DAMAGE:
        raise UnreadableFileError(
            case_id, path, f"is damaged, incomplete or not a {path.suffix} file"
        ) from None
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    shape = pixels.shape[1:]
    n = len(shape)
    return Volume(pixels, Geometry(shape, None, (0.0,) * n, tuple(np.eye(n).ravel().tolist())))


def _read_pillow(path: Path, case_id: str, is_label: bool) -> npt.NDArray[Any]:
    """Pixels `(c, i, j)` of a file with one picture."""
    with Image.open(path, formats=_FORMATS) as picture:
        require_bounded(path, case_id, picture.size)
        if getattr(picture, "n_frames", 1) > 1:
            fault = f"holds {picture.n_frames} pictures"  # type: ignore[attr-defined]
            raise UnreadableFileError(case_id, path, fault, "Save the one that is meant on its own.")
        _require_upright(picture.getexif().get(_ORIENTATION_TAG, 1), path, case_id)
        if picture.format == "PNG" and _is_deep_colour(path):
            picture.load()  # ITK does not notice a cut file
            return _without_alpha(decode(path, case_id, "PNGImageIO").voxels, path, case_id)
        pixels = _pillow_pixels(picture, path, case_id, is_label=is_label)
        if is_label and picture.format == "JPEG" and len(found := np.unique(pixels)) > 2:
            raise LossyLabelError(case_id, path, len(found))
    has_alpha = picture.mode in ("LA", "RGBA", "PA")
    return _without_alpha(pixels, path, case_id) if has_alpha else pixels


def _pillow_pixels(picture: Image.Image, path: Path, case_id: str, *, is_label: bool) -> npt.NDArray[Any]:
    """Pixels `(c, i, j)`; Pillow's arrays are `(row, column[, c])`."""
    match picture.mode:
        case "1":
            picture = picture.convert("L")
        case "P" if not is_label or _is_grey(picture):
            picture = picture.convert("RGB")
        case "PA":
            picture = picture.convert("RGBA")
        case "P" | "L" | "LA" | "RGB" | "RGBA" | "I" | "F" | "I;16" | "I;16B" | "I;16L":
            pass
        case _:
            fault = f"is in the colour space {picture.mode}"
            raise UnreadableFileError(case_id, path, fault, "Save it as RGB or greyscale.")
    return np.atleast_3d(np.asarray(picture)).transpose(2, 1, 0)


def _is_grey(picture: Image.Image) -> bool:
    """Whether a palette holds grey levels alone: then they are the values, not their numbers."""
    colours = np.reshape(picture.getpalette("RGB") or [], (-1, 3))
    return bool((colours == colours[:, :1]).all())


def _is_deep_colour(path: Path) -> bool:
    """Whether a PNG has 16 bits and more than one channel: bytes 24 and 25, in its first chunk."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[24] == 16 and head[25] != 0


def _without_alpha(pixels: npt.NDArray[Any], path: Path, case_id: str) -> npt.NDArray[Any]:
    """Pixels less a last channel of transparency, which must say nothing."""
    if len(pixels) not in (2, 4):
        return pixels
    if (pixels[-1] != np.iinfo(pixels.dtype).max).any():
        raise UnreadableFileError(case_id, path, "is transparent in places", "Save it without transparency.")
    return pixels[:-1]


def _require_upright(orientation: int, path: Path, case_id: str) -> None:
    """Raises where a tag asks viewers to turn the picture: nobody knows on which version its label was drawn."""
    if orientation not in (0, 1):
        remedy = "Save it upright, without the tag, and see that its label fits."
        raise UnreadableFileError(
            case_id, path, f"asks viewers to turn it (orientation tag {orientation})", remedy
        )


def _read_tiff(path: Path, case_id: str, is_label: bool) -> npt.NDArray[Any]:
    """Pixels `(c, i, j[, k])`: samples and channels are `c`, any other axis than rows and columns is `k`."""
    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.series[0].keyframe
        require_bounded(path, case_id, series.shape)
        _require_all_pages(file, path)
        if len(file.series) > 1:
            fault = f"holds {len(file.series)} separate pictures"
            raise UnreadableFileError(case_id, path, fault, "Save the one that is meant on its own.")
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            remedy = "Save it again with black as 0 (photometric interpretation MinIsBlack)."
            raise UnreadableFileError(
                case_id, path, "counts white as 0, which programs read differently", remedy
            )
        _require_upright(page.tags.valueof(_ORIENTATION_TAG, default=1), path, case_id)
        is_plain = series.axes in ("YX", "YXS") and (page.samplesperpixel == 1 or page.bitspersample == 8)
        if is_plain and (page.photometric == tifffile.PHOTOMETRIC.PALETTE or _is_coded(page)):
            return _read_pillow(path, case_id, is_label)
        pixels = _channels_first(series.asarray(), series.axes, path, case_id)
    return _without_alpha(pixels, path, case_id) if page.photometric == tifffile.PHOTOMETRIC.RGB else pixels


def _require_all_pages(file: tifffile.TiffFile, path: Path) -> None:
    """Raises ValueError where the last page found points to a further one: the file was cut between pages."""
    with path.open("rb") as raw:
        raw.seek(file.pages.next_page_offset)
        if any(raw.read(file.tiff.offsetsize)):
            raise ValueError


def _is_coded(page: Any) -> bool:
    """Whether the compression is one of those that tifffile leaves to a further package and Pillow knows."""
    return page.compression not in (
        tifffile.COMPRESSION.NONE,
        tifffile.COMPRESSION.ADOBE_DEFLATE,
        tifffile.COMPRESSION.DEFLATE,
        tifffile.COMPRESSION.PACKBITS,
    )


def _channels_first(array: npt.NDArray[Any], axes: str, path: Path, case_id: str) -> npt.NDArray[Any]:
    """An array with named axes as `(c, i, j[, k])`; axes of length 1 are dropped."""
    kept = [n for n, name in enumerate(axes) if name in "YX" or array.shape[n] > 1]
    array, axes = array.reshape([array.shape[n] for n in kept]), "".join(axes[n] for n in kept)
    channels = [n for n, name in enumerate(axes) if name in "SC"]
    depth = [n for n, name in enumerate(axes) if name not in "SCYX"]
    if len(channels) > 1 or len(depth) > 1:
        raise UnreadableFileError(
            case_id, path, f"has the axes {axes}", "Save one picture, or one stack, in a file."
        )
    array = array.transpose(*channels, axes.index("X"), axes.index("Y"), *depth)
    return array if channels else array[None]
