"""From a preprocessed image to class probabilities on the same grid, in one window or several."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from medseg_core.config import Experiment

Image = Float32[np.ndarray, "c *s"]
Unlike = Float32[np.ndarray, "c ..."]  # one of several images of different sizes
Padded = Float32[np.ndarray, "c *larger"]
Probabilities = Float32[np.ndarray, "k *s"]
Predictor = Callable[[Tensor], Tensor]

LARGEST_WINDOW = 2  # patches: a window needs no gradients, so this fits wherever a training step did
WINDOWS_AT_ONCE = 4  # torch's 3D convolutions of one small image on a CPU take as long as those of two


@dataclass(frozen=True)
class InferenceSettings:
    """How an image is cut into windows."""

    patch_size: tuple[int, ...]
    multiple: int  # `patch_multiple` of the model
    overlap: float = 0.5  # of neighbouring windows, a fraction of the patch
    mirror: bool = False  # average over all flips of the image


def inference_settings(experiment: Experiment) -> InferenceSettings:
    """The settings that an experiment's sections ask for."""
    return InferenceSettings(
        patch_size=experiment.training.patch_size,
        multiple=experiment.model.patch_multiple,
        overlap=experiment.evaluation.overlap,
        mirror=experiment.evaluation.mirror,
    )


def predict_probabilities(
    network: nn.Module, image: Image, settings: InferenceSettings, device: torch.device
) -> Probabilities:
    """Softmax probabilities `(k, *s)` of an image `(c, *s)`; the network must be on `device`.

    An image of at most `LARGEST_WINDOW` times the patch's voxels is seen whole, in one window: quicker than
    several, and no voxel lies at the edge of a window. A larger one is covered by windows of the patch's size
    whose probabilities are averaged, those near the middle of a window counting more. What is missing to a
    window is 0, around the image, as in training. Deterministic on a CPU. The network's mode is put back.
    """
    ((_, probabilities),) = predict_each(network, [image], settings, device)
    return probabilities


def predict_each(
    network: nn.Module, images: Sequence[Unlike], settings: InferenceSettings, device: torch.device
) -> Iterator[tuple[int, Float32[np.ndarray, "k ..."]]]:
    """`predict_probabilities` of several images, up to rounding: each with its place in `images`, in any order.

    Images that fit one shape of window share forward passes.
    """
    predict = _mirrored(network, len(settings.patch_size)) if settings.mirror else _softmax_of(network)
    alike = defaultdict(list)
    for place, image in enumerate(images):
        alike[_window(image.shape[1:], settings)].append(place)
    for window, places in alike.items():
        is_seen_whole = math.prod(window) <= LARGEST_WINDOW * math.prod(settings.patch_size)
        at_once = WINDOWS_AT_ONCE if is_seen_whole else 1
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            with torch.inference_mode(), _evaluating(network):
                if is_seen_whole:
                    found = _see_whole(predict, [images[place] for place in some], window, device)
                else:
                    found = [_slide(predict, images[some[0]], settings, device)]
            yield from zip(some, found, strict=True)


def pad_to(image: Image, size: tuple[int, ...]) -> tuple[Padded, tuple[slice, ...]]:
    """A copy of the image in the middle of zeros, `(c, *size)`, and where in it the image lies."""
    margins = [(wanted - got) // 2 for wanted, got in zip(size, image.shape[1:], strict=True)]
    inside = (slice(None), *(slice(m, m + n) for m, n in zip(margins, image.shape[1:], strict=True)))
    padded = np.zeros((image.shape[0], *size), np.float32)
    padded[inside] = image
    return padded, inside


def pad_to_multiple(image: Image, multiple: int) -> tuple[Padded, tuple[slice, ...]]:
    """As `pad_to`, to the next multiple along each axis."""
    return pad_to(image, tuple(-(-n // multiple) * multiple for n in image.shape[1:]))


def _window(size: tuple[int, ...], settings: InferenceSettings) -> tuple[int, ...]:
    """The one window that holds the whole image: no smaller than a patch, and a multiple."""
    m = settings.multiple
    return tuple(max(patch, -(-n // m) * m) for n, patch in zip(size, settings.patch_size, strict=True))


def _softmax_of(network: nn.Module) -> Predictor:
    return lambda images: torch.softmax(network(images).float(), dim=1)


def _mirrored(network: nn.Module, spatial_dims: int) -> Predictor:
    """Mean over all flips, each flipped back: 4 forward passes in 2D, 8 in 3D."""
    predict = _softmax_of(network)
    axes = range(2, 2 + spatial_dims)
    flips = [list(c) for r in range(spatial_dims + 1) for c in itertools.combinations(axes, r)]

    def mean_over_flips(images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        total = predict(images)
        for flip in flips[1:]:  # the first flips nothing
            total += predict(images.flip(flip)).flip(flip)
        return total / len(flips)

    return mean_over_flips


def _see_whole(
    predict: Predictor, images: Sequence[Unlike], window: tuple[int, ...], device: torch.device
) -> list[Float32[np.ndarray, "k ..."]]:
    """One forward pass over images that fit the window. On a CPU a lone volume goes with a copy of it: quicker."""
    padded, insides = zip(*(pad_to(image, window) for image in images), strict=True)
    is_slow_alone = len(padded) == 1 and len(window) == 3 and device.type == "cpu"
    batch = np.stack(padded * 2 if is_slow_alone else padded)
    probabilities = predict(torch.from_numpy(batch).to(device)).cpu().numpy()
    return [each[inside] for each, inside in zip(probabilities, insides, strict=False)]


def _slide(
    predict: Predictor, image: Image, settings: InferenceSettings, device: torch.device
) -> Probabilities:
    """Windows on `device`, put together on the CPU: a whole scan's probabilities may not fit elsewhere."""
    from monai.inferers import sliding_window_inference

    probabilities: Tensor = sliding_window_inference(
        torch.tensor(np.ascontiguousarray(image)).unsqueeze(0),  # of a mirrored one, too
        roi_size=settings.patch_size,
        sw_batch_size=WINDOWS_AT_ONCE,
        predictor=predict,
        overlap=settings.overlap,
        mode="gaussian",
        sw_device=device,
        device=torch.device("cpu"),
    )
    return probabilities[0].numpy()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Dropout off, batch statistics fixed; the mode it had is put back."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
