"""Random changes of training patches: nnU-Net's, written for a batch; they run where the batch is.

Everything is drawn from the generator that is passed, on the CPU. Each sample takes one number from it and draws
the rest from a generator of its own, so that its changes depend on its place in the stream, neither on the
batch size nor on what other samples drew. All is drawn before anything changes, so that a GPU makes each kind of change
at once in all samples that drew it.

What lies outside the patch is unknown: images repeat their border there, labels become IGNORE. (Background
would teach the network that a structure ends where a patch cuts it.)

Source of the transforms, their order and their ranges: Isensee et al. 2021, supplementary note 2.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional

from medseg_core.config import Augmentation
from medseg_core.types import IGNORE

Images = Float[Tensor, "b c *s"]
Labels = Integer[Tensor, "b *s"]
Drawn = TypeVar("Drawn")

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
    drawn = [_draw(images.shape[1:], settings, _seeded(seed), optional) for seed in seeds.tolist()]
    missing = _empty_channels(images, optional)
    images, labels = images.clone(), labels.clone()
    together = len(images) if images.device.type == "cuda" else 1  # one sample stays in a CPU's cache
    for first in range(0, len(images), together):
        some = slice(first, first + together)
        _augment_in_place(images[some], labels[some], drawn[some])
    return _without(images, missing, [changes.dropped for changes in drawn]), labels


def _augment_in_place(images: Tensor, labels: Tensor, drawn: Sequence["_Changes"]) -> None:
    _move([changes.motion for changes in drawn], images, labels)
    _change(images, [changes.noise for changes in drawn], _add_noise)
    _change(images, [changes.blur for changes in drawn], _blur)
    _change(images, [changes.brightness for changes in drawn], _brighten)
    _change(images, [changes.contrast for changes in drawn], _change_contrast)
    _change(images, [changes.low_resolution for changes in drawn], _lower_resolution)
    _change(images, [changes.gamma for changes in drawn], _change_gamma)
    for axes in {changes.flips for changes in drawn if changes.flips}:
        flips = [axes if changes.flips == axes else None for changes in drawn]
        _change(images, flips, _flip)
        _change(labels, flips, _flip)


# ---- what is drawn for a sample --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Motion:
    """Of d axes."""

    matrix: Tensor  # (d, d)
    bend: Tensor | None  # displacements of control points (d, *[CONTROL_POINTS] * d), 2 from edge to edge


@dataclass(frozen=True)
class _Gamma:
    sign: int
    exponents: Tensor  # (c,)


@dataclass(frozen=True)
class _Changes:
    """Of one sample `(c, *s)`; None or nothing in it where nothing changes."""

    motion: _Motion | None
    noise: Tensor | None  # (c, *s)
    blur: float | None  # sigma in voxels
    brightness: Tensor | None  # factors (c,)
    contrast: Tensor | None  # factors (c,)
    low_resolution: float | None  # share of the voxels along each axis
    gamma: _Gamma | None
    flips: tuple[int, ...]  # spatial axes, counted from the last one, -1
    dropped: Mapping[int, float]  # channels; that with the highest number stays where all would go


def _draw(
    shape: Sequence[int], settings: Augmentation, rng: torch.Generator, optional: Sequence[int]
) -> _Changes:
    """For a sample of `shape` `(c, *s)`; the fields are drawn in their order."""
    channels, *space = shape
    return _Changes(
        motion=_draw_motion(len(space), settings, rng),
        noise=_draw_noise(shape, rng) if _chance(settings.noise, rng) else None,
        blur=_uniform(*BLUR_SIGMA, rng) if _chance(settings.blur, rng) else None,
        brightness=_factors(channels, BRIGHTNESS, rng) if _chance(settings.brightness, rng) else None,
        contrast=_factors(channels, CONTRAST, rng) if _chance(settings.contrast, rng) else None,
        low_resolution=_uniform(*LOW_RESOLUTION, rng) if _chance(settings.low_resolution, rng) else None,
        gamma=_draw_gamma(channels, rng) if _chance(settings.gamma, rng) else None,
        flips=tuple(axis - len(space) for axis, may in enumerate(settings.flip) if may and _chance(0.5, rng)),
        dropped=_draw_dropped(optional, settings.channel_dropout, rng),
    )


def _draw_dropped(optional: Sequence[int], probability: float, rng: torch.Generator) -> dict[int, float]:
    drawn = {channel: _uniform(0.0, 1.0, rng) for channel in optional}
    return {channel: number for channel, number in drawn.items() if number < probability}


def _draw_motion(dims: int, settings: Augmentation, rng: torch.Generator) -> _Motion | None:
    rotates, scales, bends = (
        _chance(p, rng) for p in (settings.rotation, settings.scaling, settings.elastic)
    )
    if not (rotates or scales or bends):
        return None
    matrix = torch.eye(dims)
    if rotates:
        matrix = _rotation(dims, math.radians(settings.rotation_degrees), rng)
    if scales:
        matrix = matrix / _away_from_one(settings.scaling_range, rng)
    return _Motion(matrix, _draw_bend(dims, rng) if bends else None)


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


def _draw_bend(dims: int, rng: torch.Generator) -> Tensor:
    """Control points are `2 / CONTROL_POINTS` apart."""
    strength = _uniform(*ELASTIC, rng) * 2 / CONTROL_POINTS
    return (torch.rand((dims, *[CONTROL_POINTS] * dims), generator=rng) * 2 - 1) * strength


def _draw_noise(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Gaussian, equally strong in all channels."""
    sigma = _uniform(*NOISE_SIGMA, rng)
    return torch.randn(*shape, generator=rng) * sigma


def _draw_gamma(channels: int, rng: torch.Generator) -> _Gamma:
    sign = -1 if _chance(GAMMA_OF_NEGATIVE, rng) else 1
    return _Gamma(sign, torch.tensor([_away_from_one(GAMMA, rng) for _ in range(channels)]))


# ---- changes of the samples that drew them: the first argument in place ------------------------------------


def _change(
    batch: Tensor, drawn: Sequence[Drawn | None], change: Callable[[Tensor, Sequence[Drawn]], Tensor]
) -> None:
    """`change` gets those of the batch that drew something, and what they drew."""
    values = [each for each in drawn if each is not None]
    if len(values) == len(batch):
        batch.copy_(change(batch, values))
    elif values:
        index = _beside(batch, torch.tensor([n for n, each in enumerate(drawn) if each is not None]))
        batch.index_copy_(0, index, change(batch.index_select(0, index), values))


def _move(motions: Sequence[_Motion | None], images: Tensor, labels: Tensor) -> None:
    """Image linear, label nearest."""
    chosen = [motion for motion in motions if motion]
    if not chosen:
        return
    source = _source_positions(labels.shape[1:], chosen, images.device)
    grid = source.flip(1).movedim(1, -1)  # (n, *s, d), the last axis first
    _change(images, motions, lambda some, _: _linear_at(grid, some))
    _change(labels, motions, lambda some, _: _nearest_at(grid, some))


def _linear_at(grid: Tensor, images: Tensor) -> Tensor:
    return _sampled(images, grid, mode="bilinear", padding_mode="border")


def _nearest_at(grid: Tensor, labels: Tensor) -> Tensor:
    shifted = (labels.to(grid.dtype) - IGNORE).unsqueeze(1)  # so that the 0 outside means IGNORE
    nearest = _sampled(shifted, grid, mode="nearest", padding_mode="zeros")
    return (nearest[:, 0] + IGNORE).to(labels.dtype)


def _sampled(values: Tensor, grid: Tensor, *, mode: str, padding_mode: str) -> Tensor:
    """`(n, c, *s)` at a grid `(n, *s, d)`. A lone sample slice by slice: torch gives each of a batch one core."""
    slices = grid.transpose(0, 1) if len(grid) == 1 else grid
    found = functional.grid_sample(
        values.expand(len(slices), *values.shape[1:]), slices, mode, padding_mode, align_corners=False
    )
    return found.transpose(0, 2) if len(grid) == 1 else found


def _source_positions(shape: Sequence[int], motions: Sequence[_Motion], device: torch.device) -> Tensor:
    """For each voxel its source `(n, d, *s)`, -1 to 1 from edge to edge.

    `matrix @ voxel` about the middle as sums over axes: faster than `affine_grid`.
    """
    dims, matrices = len(shape), torch.stack([motion.matrix for motion in motions])
    source = torch.zeros(1, dims, *[1] * dims, device=device)
    for axis, n in enumerate(shape):
        voxels = torch.arange(n) - (n - 1) / 2
        step = (matrices[:, :, axis] * 2 / torch.tensor(shape)).unsqueeze(2) * voxels  # (n, d, voxels)
        along = (n if a == axis else 1 for a in range(dims))
        source = source + _beside(source, step).view(len(motions), dims, *along)
    _change(source, [motion.bend for motion in motions], _bend)
    return source


def _bend(positions: Tensor, bends: Sequence[Tensor]) -> Tensor:
    """By smooth displacements, linear between control points."""
    matrices = [_linear(n, CONTROL_POINTS) for n in positions.shape[2:]]
    return positions + _along_each_axis(_beside(positions, torch.stack(list(bends))), matrices)


def _add_noise(images: Tensor, noises: Sequence[Tensor]) -> Tensor:
    return images + _beside(images, torch.stack(list(noises)))


def _blur(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Gaussian; at the border the mean of what is inside."""
    return _along_each_axis(
        images, [torch.stack([_gaussian(n, sigma) for sigma in sigmas]) for n in images.shape[2:]]
    )


def _brighten(images: Tensor, factors: Sequence[Tensor]) -> Tensor:
    return images * _as_channels(factors, images)


def _lower_resolution(images: Tensor, fractions: Sequence[float]) -> Tensor:
    """As if scanned with fewer voxels: some are picked, the rest is linear between them."""
    matrices = [
        torch.stack([_coarsening(n, max(1, round(n * fraction))) for fraction in fractions])
        for n in images.shape[2:]
    ]
    return _along_each_axis(images, matrices)


def _change_contrast(images: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Away from or towards the channel's mean, within the channel's range."""
    axes = list(range(2, images.ndim))
    low, high, mean = (measure(axes, keepdim=True) for measure in (images.amin, images.amax, images.mean))
    return ((images - mean) * _as_channels(factors, images) + mean).clamp(low, high)


def _change_gamma(images: Tensor, gammas: Sequence[_Gamma]) -> Tensor:
    """A power of the intensities, or of their negative; mean and standard deviation of a channel stay."""
    signs = _as_channels([torch.tensor([float(gamma.sign)]) for gamma in gammas], images)
    exponents = _as_channels([gamma.exponents for gamma in gammas], images)
    axes, signed = list(range(2, images.ndim)), images * signs
    low, high = signed.amin(axes, keepdim=True), signed.amax(axes, keepdim=True)
    changed = ((signed - low) / (high - low).clamp(min=TINY)).pow(exponents) * signs
    deviation, mean = _deviation_and_mean(images)
    new_deviation, new_mean = _deviation_and_mean(changed)
    return (changed - new_mean) * (deviation / new_deviation.clamp(min=TINY)) + mean


def _flip(batch: Tensor, axes: Sequence[tuple[int, ...]]) -> Tensor:
    """All along the same axes."""
    return batch.flip(axes[0])


def _empty_channels(images: Tensor, optional: Sequence[int]) -> Tensor | None:
    """The optional channels that are 0 all over, `(b, c)`; None where none is optional."""
    if not optional:
        return None
    empty = torch.zeros(images.shape[:2], dtype=torch.bool, device=images.device)
    for channel in optional:
        empty[:, channel] = ~images[:, channel].flatten(1).any(1)
    return empty


def _without(images: Tensor, missing: Tensor | None, dropped: Sequence[Mapping[int, float]]) -> Tensor:
    """Zeros for missing channels, which noise has filled, and for dropped ones but for the last that is left."""
    if missing is None:
        return images
    numbers = torch.full(images.shape[:2], -1.0)  # of channels that are not dropped
    for sample, channels in enumerate(dropped):
        for channel, number in channels.items():
            numbers[sample, channel] = number
    numbers = _beside(images, numbers).masked_fill(missing, -1.0)
    gone = missing | (numbers >= 0)
    last = numbers.argmax(1, keepdim=True)
    stays = gone.all(1, keepdim=True) & ~missing.gather(1, last)
    gone = gone.scatter(1, last, gone.gather(1, last) & ~stays)
    return images.masked_fill(gone.view(*gone.shape, *[1] * (images.ndim - 2)), 0)


def _deviation_and_mean(images: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel, `(n, c, 1, ..)`; in two steps, as `torch.std_mean` takes four times as long."""
    axes = list(range(2, images.ndim))
    mean = images.mean(axes, keepdim=True)
    return (images - mean).square().mean(axes, keepdim=True).sqrt(), mean


def _as_channels(values: Sequence[Tensor], images: Tensor) -> Tensor:
    """`(c,)` of each sample as `(n, c, 1, ..)`, to go with images `(n, c, *s)`."""
    stacked = torch.stack(list(values))
    return _beside(images, stacked.view(*stacked.shape, *[1] * (images.ndim - 2)))


def _beside(images: Tensor, values: Tensor) -> Tensor:
    """`values`, drawn on the CPU, where the images are; work that is under way there goes on meanwhile."""
    return values.to(images.device, non_blocking=images.device.type == "cuda")


# ---- linear maps along the axes -------------------------------------------------------------------------


def _along_each_axis(images: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Each spatial axis of `(n, c, *s)` times its matrix `(new, old)`, or one of each sample `(n, new, old)`.

    For a patch faster than convolutions. Each step maps the first spatial axis and puts it last, so that the order in
    the end is the old one.
    """
    for matrix in matrices:
        right = _beside(images, matrix if matrix.ndim == 2 else matrix.unsqueeze(1)).mT
        mapped = images.flatten(3).transpose(2, 3) @ right  # (n, c, the rest, new)
        images = mapped.view(*images.shape[:2], *images.shape[3:], matrix.shape[-2])
    return images


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


def _factors(channels: int, bounds: tuple[float, float], rng: torch.Generator) -> Tensor:
    """A uniform factor for each channel, `(c,)`."""
    return torch.tensor([_uniform(*bounds, rng) for _ in range(channels)])


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
