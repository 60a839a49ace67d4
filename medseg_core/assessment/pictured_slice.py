"""One slice of a case with its outlines to be, as a small file: what `report_overlays` draws."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from medseg_core.types import IGNORE

Picture = Mapping[str, npt.NDArray[np.generic]]


def picture(
    image: npt.NDArray[np.float32],
    truth: npt.NDArray[np.uint8],
    prediction: npt.NDArray[np.uint8],
    spacing: Sequence[float],
    *,
    channel: int = 0,
) -> Picture:
    """The slice with most foreground: image uint8 `(i, j[, 3])`, truth, prediction, aspect.

    `image` is `(c, i, j[, k])`; three channels are a colour picture, of others `channel` is shown. The aspect is the
    height of a pixel by its width.
    """
    if truth.ndim == 3:
        areas = ((truth > 0) & (truth != IGNORE)).sum((0, 1))
        if not areas.any():
            areas = (prediction > 0).sum((0, 1))
        k = int(areas.argmax()) if areas.any() else truth.shape[2] // 2
        image, truth, prediction = image[..., k], truth[..., k], prediction[..., k]
    shown = image if image.shape[0] == 3 else image[channel : channel + 1]
    low, high = np.percentile(shown, (0.5, 99.5), axis=(1, 2), keepdims=True)
    grey = np.clip((shown - low) / np.maximum(high - low, 1e-8) * 255, 0, 255).astype(np.uint8)
    return {
        "image": np.moveaxis(grey, 0, -1) if len(grey) == 3 else grey[0],
        "truth": truth,
        "prediction": prediction,
        "aspect": np.float64(spacing[1] / spacing[0]),
    }


def picture_file(shown: Picture) -> bytes:
    """A picture as bytes of an .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **shown)
    return buffer.getvalue()
