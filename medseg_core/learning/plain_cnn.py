"""A plain 3D convolutional network: full resolution throughout, context by dilation."""

import math
from typing import Literal

from torch import nn

Normalisation = Literal["instance", "group", "batch"]


def plain_cnn(
    in_channels: int,
    n_classes: int,
    *,
    channels: tuple[int, ...],
    normalisation: Normalisation,
    dropout: float,
) -> nn.Sequential:
    """A 3x3x3 convolution an entry of `channels`, dilated 1, 2, 4, ..; then 1x1x1 to `(b, n_classes, *s)`.

    Takes any patch size. Sees `2^(layers + 1) - 1` voxels along each axis; needs the memory of
    `sum(channels)` full-resolution maps, so keep `channels` small.
    Source: Yu & Koltun 2016, section 3 (dilations that double).
    """
    blocks = [
        _block(before, width, dilation=2**depth, normalisation=normalisation, dropout=dropout)
        for depth, (before, width) in enumerate(zip((in_channels, *channels), channels, strict=False))
    ]
    return nn.Sequential(*blocks, nn.Conv3d(channels[-1], n_classes, kernel_size=1))


def _block(
    before: int, width: int, *, dilation: int, normalisation: Normalisation, dropout: float
) -> nn.Sequential:
    """Convolution, normalisation, dropout, activation; the size of the volume stays."""
    layers: list[nn.Module] = [
        nn.Conv3d(before, width, kernel_size=3, padding=dilation, dilation=dilation, bias=False),
        _norm(normalisation, width),
    ]
    if dropout > 0:
        layers.append(nn.Dropout3d(dropout))
    return nn.Sequential(*layers, nn.LeakyReLU(0.01, inplace=True))


def _norm(normalisation: Normalisation, width: int) -> nn.Module:
    """The layer, with trainable scale and shift; groups as many as divide the width, at most 8."""
    match normalisation:
        case "instance":
            return nn.InstanceNorm3d(width, affine=True)
        case "group":
            return nn.GroupNorm(math.gcd(8, width), width)
        case "batch":
            return nn.BatchNorm3d(width)
