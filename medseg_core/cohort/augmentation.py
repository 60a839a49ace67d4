"""Random changes of training patches: nnU-Net's, written for a batch on a CPU; they run where the batch is.

Everything is drawn from the generator that is passed, on the CPU. Each sample takes one number from it and draws
the rest from a generator of its own, so that its changes depend on its place in the stream, neither on the
batch size nor on what other samples drew.

What lies outside the patch is unknown: images repeat their border there, labels become IGNORE. (Background
would teach the network that a structure ends where a patch cuts it.)

Source of the transforms, their order and their ranges: Isensee et al. 2021, supplementary note 2.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional

from medseg_core.config import Augmentation
from medseg_core.types import IGNORE

Images = Float[Tensor, "b c *s"]
Labels = Integer[Tensor, "b *s"]

NOISE_SIGMA = (0.0, 0.1)
BLUR_SIGMA = (0.5, 1.0)  # voxels
BRIGHTNESS = (0.75, 1.25)  # factor
CONTRAST = (0.75, 1.25)  # factor
LOW_RESOLUTION = (0.5, 1.0)  # of the voxels along each axis
GAMMA = (0.7, 1.5)
GAMMA_OF_NEGATIVE = 0.25  # of the gamma changes; nnU-Net: 0.1 of the patches against 0.3
CONTROL_POINTS = 5  # along each axis, of elastic deformations
ELASTIC = (0.0, 0.25)  # of the distance of control points; below 0.5 nothing folds
TINY = 1e-7  # keeps a constant channel from dividing by zero
NEGLIGIBLE = 1e-12  # smaller weights are 0; else subnormal products along three axes slow a CPU a hundredfold


def augment(
    images: Images,
    labels: Labels,
    settings: Augmentation,
    generator: torch.Generator,
    *,
    optional: Sequence[int] = (),
) -> tuple[Images, Labels]:
    """Changed copies; the arguments stay as they are. Patches are 2D or 3D; rotation and scaling are in
    voxels. Of the `optional` channels those that are 0 all over are missing and stay so; others may be dropped.

    Labels keep their type and take only values that they had, or IGNORE. Deterministic given the generator's state.
    """
    seeds = torch.randint(2**62, (len(images),), generator=generator, device=generator.device)
    changed = [
        _augment_one(image, label, settings, torch.Generator().manual_seed(seed), optional)
        for image, label, seed in zip(images, labels, seeds.tolist(), strict=True)
    ]
    return torch.stack([image for image, _ in changed]), torch.stack([label for _, label in changed])


def _augment_one(
    image: Tensor, label: Tensor, settings: Augmentation, rng: torch.Generator, optional: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """One sample `(c, *s)` and `(*s)`."""
    missing = [channel for channel in optional if not image[channel].any()]
    source = _source_positions(label.shape, settings, rng, image.device)
    if source is not None:
        image, label = _resample(image, label, source)
    if _chance(settings.noise, rng):
        image = _add_noise(image, rng)
    if _chance(settings.blur, rng):
        image = _blur(image, rng)
    if _chance(settings.brightness, rng):
        image = image * _one_a_channel(image, BRIGHTNESS, rng)
    if _chance(settings.contrast, rng):
        image = _change_contrast(image, rng)
    if _chance(settings.low_resolution, rng):
        image = _lower_resolution(image, rng)
    if _chance(settings.gamma, rng):
        image = _change_gamma(image, rng)
    axes = [axis for axis, may_flip in enumerate(settings.flip) if may_flip and _chance(0.5, rng)]
    image, label = image.flip([axis + 1 for axis in axes]), label.flip(axes)
    dropped = [channel for channel in optional if _chance(settings.channel_dropout, rng)]
    return _without(image, missing, dropped), label


# ---- where each voxel comes from ------------------------------------------------------------------------


def _source_positions(
    shape: Sequence[int], settings: Augmentation, rng: torch.Generator, device: torch.device
) -> Tensor | None:
    """For each voxel its source `(d, *s)`, -1 to 1 from edge to edge; None where nothing moves."""
    rotates, scales, bends = (
        _chance(p, rng) for p in (settings.rotation, settings.scaling, settings.elastic)
    )
    if not (rotates or scales or bends):
        return None
    matrix = torch.eye(len(shape))
    if rotates:
        matrix = _rotation(len(shape), math.radians(settings.rotation_degrees), rng)
    if scales:
        matrix = matrix / _away_from_one(settings.scaling_range, rng)
    source = _affine_positions(shape, matrix, device)
    return source + _bending(shape, rng, device) if bends else source


def _affine_positions(shape: Sequence[int], matrix: Tensor, device: torch.device) -> Tensor:
    """`matrix @ voxel` about the middle, for every voxel, as sums over axes: faster than `affine_grid`."""
    dims = len(shape)
    position = torch.zeros(dims, *[1] * dims, device=device)
    for axis, n in enumerate(shape):
        voxels = torch.arange(n) - (n - 1) / 2
        step = torch.outer(matrix[:, axis] * 2 / torch.tensor(shape), voxels).to(device)  # (d, n)
        position = position + step.view(dims, *(n if a == axis else 1 for a in range(dims)))
    return position


def _rotation(dims: int, largest: float, rng: torch.Generator) -> Tensor:
    """A rotation matrix: one angle in 2D, one in each plane in 3D, each uniform in +-largest radians."""
    matrix = torch.eye(dims)
    for a, b in [(0, 1)] if dims == 2 else [(0, 1), (0, 2), (1, 2)]:
        angle = _uniform(-largest, largest, rng)
        turn = torch.eye(dims)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def _bending(shape: Sequence[int], rng: torch.Generator, device: torch.device) -> Tensor:
    """A smooth random displacement `(d, *s)`, linear between control points, `2 / CONTROL_POINTS` apart."""
    strength = _uniform(*ELASTIC, rng) * 2 / CONTROL_POINTS
    coarse = torch.rand((len(shape), *[CONTROL_POINTS] * len(shape)), generator=rng) * 2 - 1
    return _along_each_axis((coarse * strength).to(device), [_linear(n, CONTROL_POINTS) for n in shape])


def _resample(image: Tensor, label: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Image linear, label nearest, at `source`."""
    grid = source.flip(0).movedim(0, -1).unsqueeze(0)  # (1, *s, d), the last axis first
    image = functional.grid_sample(image.unsqueeze(0), grid, padding_mode="border", align_corners=False)[0]
    shifted = (label.to(image.dtype) - IGNORE)[None, None]  # so that the 0 outside means IGNORE
    nearest = functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)[0, 0]
    return image, (nearest + IGNORE).to(label.dtype)


# ---- intensities ----------------------------------------------------------------------------------------


def _add_noise(image: Tensor, rng: torch.Generator) -> Tensor:
    """Gaussian, equally strong in all channels."""
    sigma = _uniform(*NOISE_SIGMA, rng)
    return image + torch.randn(image.shape, generator=rng).to(image) * sigma


def _blur(image: Tensor, rng: torch.Generator) -> Tensor:
    """Gaussian; at the border the mean of what is inside."""
    sigma = _uniform(*BLUR_SIGMA, rng)
    return _along_each_axis(image, [_gaussian(n, sigma) for n in image.shape[1:]])


def _lower_resolution(image: Tensor, rng: torch.Generator) -> Tensor:
    """As if scanned with fewer voxels: some are picked, the rest is linear between them."""
    fraction = _uniform(*LOW_RESOLUTION, rng)
    return _along_each_axis(image, [_coarsening(n, max(1, round(n * fraction))) for n in image.shape[1:]])


def _change_contrast(image: Tensor, rng: torch.Generator) -> Tensor:
    """Away from or towards the channel's mean, within the channel's range."""
    axes = list(range(1, image.ndim))
    low, high, mean = (measure(axes, keepdim=True) for measure in (image.amin, image.amax, image.mean))
    return ((image - mean) * _one_a_channel(image, CONTRAST, rng) + mean).clamp(low, high)


def _change_gamma(image: Tensor, rng: torch.Generator) -> Tensor:
    """A power of the intensities, or of their negative; mean and standard deviation of a channel stay."""
    sign = -1 if _chance(GAMMA_OF_NEGATIVE, rng) else 1
    exponents = torch.tensor([_away_from_one(GAMMA, rng) for _ in image]).to(image)
    axes = list(range(1, image.ndim))
    low, high = (image * sign).amin(axes, keepdim=True), (image * sign).amax(axes, keepdim=True)
    changed = ((image * sign - low) / (high - low).clamp(min=TINY)).pow(_as_channels(exponents, image)) * sign
    deviation, mean = _deviation_and_mean(image)
    new_deviation, new_mean = _deviation_and_mean(changed)
    return (changed - new_mean) * (deviation / new_deviation.clamp(min=TINY)) + mean


def _without(image: Tensor, missing: Sequence[int], dropped: Sequence[int]) -> Tensor:
    """Zeros for missing channels, which noise has filled, and for dropped ones unless nothing would be left."""
    gone = {*missing, *dropped}
    if gone and len(gone) == len(image):
        gone = set(missing)
    if not gone:
        return image
    return image.index_fill(0, torch.tensor(sorted(gone), dtype=torch.long, device=image.device), 0)


def _deviation_and_mean(image: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel, `(c, 1, ..)`; in two steps, as `torch.std_mean` takes four times as long."""
    axes = list(range(1, image.ndim))
    mean = image.mean(axes, keepdim=True)
    return (image - mean).square().mean(axes, keepdim=True).sqrt(), mean


# ---- linear maps along the axes -------------------------------------------------------------------------


def _along_each_axis(image: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Each spatial axis of `(c, *s)` times its matrix `(new, old)`; for a patch faster than convolutions.

    Each step maps the first spatial axis and puts it last, so that the order in the end is the old one.
    """
    for matrix in matrices:
        mapped = image.flatten(2).transpose(1, 2) @ matrix.to(image).T  # (c, the rest, new)
        image = mapped.view(len(image), *image.shape[2:], len(matrix))
    return image


def _linear(new: int, old: int) -> Tensor:
    """Linear interpolation of `old` values to `new` ones, edges aligned; constant beyond the outermost."""
    positions = ((torch.arange(new) + 0.5) * old / new - 0.5).clamp(0, old - 1)
    return (1 - (positions[:, None] - torch.arange(old)).abs()).clamp(min=0)


def _coarsening(n: int, kept: int) -> Tensor:
    """Pick `kept` of `n` values and interpolate back to `n`."""
    picked = ((torch.arange(kept) + 0.5) * n / kept).long()
    return _linear(n, kept) @ functional.one_hot(picked, n).float()


def _gaussian(n: int, sigma: float) -> Tensor:
    """A Gaussian around each of `n` values; rows sum to 1."""
    places = torch.arange(n, dtype=torch.float32)
    weights = torch.softmax(-((places[:, None] - places) ** 2) / (2 * sigma**2), dim=1)
    return weights.where(weights > NEGLIGIBLE, 0)


# ---- draws ----------------------------------------------------------------------------------------------


def _chance(probability: float, rng: torch.Generator) -> bool:
    """True with the given probability; always draws one number."""
    return torch.rand((), generator=rng).item() < probability


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=rng).item()


def _away_from_one(bounds: tuple[float, float], rng: torch.Generator) -> float:
    """Below 1 and above 1 equally often, uniform within (nnU-Net); plainly uniform if 1 lies not between."""
    low, high = bounds
    if not low < 1 < high:
        return _uniform(low, high, rng)
    return _uniform(low, 1.0, rng) if _chance(0.5, rng) else _uniform(1.0, high, rng)


def _one_a_channel(image: Tensor, bounds: tuple[float, float], rng: torch.Generator) -> Tensor:
    """A uniform factor for each channel, `(c, 1, ..)`."""
    return _as_channels(torch.tensor([_uniform(*bounds, rng) for _ in image]).to(image), image)


def _as_channels(values: Tensor, image: Tensor) -> Tensor:
    """`(c,)` as `(c, 1, ..)`, to go with an image `(c, *s)`."""
    return values.view(-1, *[1] * (image.ndim - 1))
