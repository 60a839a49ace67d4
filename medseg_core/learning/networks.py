"""The five networks of `[model]`, with weights that depend on the seed alone.

MONAI is imported where it is used: its package loads all of itself (seconds, and half of SciPy), whichever
module is asked for, and a process that does not build a network should not wait for it.
"""

import math
from typing import Any

import torch
from torch import nn

from medseg_core.config import Model, Task
from medseg_core.errors import NetworkShapeError, NormalisationError
from medseg_core.learning.generator import seeded_generator
from medseg_core.learning.plain_cnn import plain_cnn
from medseg_core.learning.prelu import use_quick_gradients

FEW_CHANNELS_LAYOUT = torch.channels_last_3d
GROUPS = 8  # at most, in group normalisation: MONAI's SegResNet


def build_network(task: Task, model: Model, *, seed: int) -> nn.Module:
    """A network on the CPU that maps images `(b, c, *s)` to logits `(b, task.n_classes, *s)`.

    Equal arguments give equal weights, whatever the state of the global generators, which stays as it was.
    Spatial sizes must be multiples of `model.patch_multiple`.

    Raises:
        NormalisationError: the network has no such normalisation.
        NetworkShapeError: `[model] channels` or `residual_units` do not fit the network.
    """
    with seeded_generator(seed):
        if model.name == "cnn3d":
            return plain_cnn(
                len(task.channels),
                task.n_classes,
                channels=model.channels,
                normalisation=model.normalisation,
                dropout=model.dropout,
            )
        name, arguments = monai_definition(task, model)
        from monai.networks import nets

        built = getattr(nets, name)(**arguments)
    if model.name == "dynunet" and model.dropout > 0:
        built.output_block.conv.adn = (
            nn.Identity()
        )  # MONAI 1.6 puts a Dropout after the last layer: on the logits
    network: nn.Module = built
    lay_out(network)
    use_quick_gradients(network)
    return network


def lay_out(network: nn.Module) -> None:
    """Channels last where a 3D convolution gives few: a CPU needs a third of the time for its gradient.

    oneDNN computes in blocks of 16 channels otherwise. A step of the hippocampus preset needs 0.87 of its time.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) and module.out_channels % 16:
            module.weight.data = module.weight.data.to(memory_format=FEW_CHANNELS_LAYOUT)


def monai_definition(task: Task, model: Model) -> tuple[str, dict[str, Any]]:
    """Class in `monai.networks.nets` and its arguments, as plain values that a MONAI bundle can hold.

    Not for `cnn3d`, which is ours. Raises as `build_network` does.
    """
    arguments = {
        "spatial_dims": task.spatial_dims,
        "in_channels": len(task.channels),
        "out_channels": task.n_classes,
    }
    match model.name:
        case "unet":
            return "UNet", arguments | _unet(task, model)
        case "dynunet":
            return "DynUNet", arguments | _dynunet(model)
        case "attention_unet":
            return "AttentionUnet", arguments | _attention_unet(model)
        case "segresnet":
            return "SegResNet", arguments | _segresnet(model)
        case "cnn3d":
            raise AssertionError("cnn3d is not MONAI's")


def head_of(model: Model) -> str:
    """Name of the network's last convolution, or block of them: what makes the maps of the classes."""
    match model.name:
        case "unet" | "attention_unet":
            return "model.2"
        case "dynunet":
            return "output_block"
        case "segresnet":
            return "conv_final.2"
        case "cnn3d":
            return str(len(model.channels))


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers in the network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _unet(task: Task, model: Model) -> dict[str, Any]:
    """Residual U-Net; its last block normalises `n_classes` maps. Source: Kerfoot et al. 2018."""
    return {
        "channels": model.channels,
        "strides": (2,) * (len(model.channels) - 1),
        "num_res_units": model.residual_units,
        "norm": _group(*model.channels, task.n_classes)
        if model.normalisation == "group"
        else model.normalisation,
        "dropout": model.dropout,
    }


def _dynunet(model: Model) -> dict[str, Any]:
    """nnU-Net's plain U-Net, without deep supervision. Source: Isensee et al. 2021."""
    levels = len(model.channels)
    if levels < 3:
        raise NetworkShapeError(
            "dynunet", f"channels needs at least 3 entries, got {levels}", "Add levels, or use unet"
        )
    return {
        "kernel_size": (3,) * levels,
        "strides": (1,) + (2,) * (levels - 1),
        "upsample_kernel_size": (2,) * (levels - 1),
        "filters": model.channels,
        "norm_name": _affine_norm(model),
        "dropout": model.dropout or None,
    }


def _attention_unet(model: Model) -> dict[str, Any]:
    """Attention U-Net; MONAI fixes its batch normalisation and blocks. Source: Oktay et al. 2018."""
    if model.normalisation != "batch":
        raise NormalisationError("attention_unet", model.normalisation, supported=("batch",))
    return {
        "channels": model.channels,
        "strides": (2,) * (len(model.channels) - 1),
        "dropout": model.dropout,
    }


def _segresnet(model: Model) -> dict[str, Any]:
    """SegResNet with `residual_units` blocks a level going down, one going up. Source: Myronenko 2018."""
    first, levels = model.channels[0], len(model.channels)
    doubling = tuple(first * 2**level for level in range(levels))
    if model.channels != doubling:
        raise NetworkShapeError(
            "segresnet",
            f"channels must double from level to level, got {list(model.channels)}",
            f"Use {list(doubling)}",
        )
    if model.residual_units < 1:
        raise NetworkShapeError("segresnet", "residual_units must be at least 1, got 0", "Use 2")
    return {
        "init_filters": first,
        "blocks_down": (model.residual_units,) * levels,
        "blocks_up": (1,) * (levels - 1),
        "norm": _affine_norm(model),
        "dropout_prob": model.dropout or None,
    }


def _affine_norm(model: Model) -> Any:
    """The normalisation with trainable scale and shift, as in nnU-Net; MONAI's plain "instance" has none."""
    match model.normalisation:
        case "instance":
            return ("instance", {"affine": True})
        case "group":
            return _group(*model.channels)
        case "batch":
            return "batch"


def _group(*widths: int) -> tuple[str, dict[str, int]]:
    """As many groups as divide every width, at most `GROUPS`; one group is layer normalisation."""
    return ("group", {"num_groups": math.gcd(GROUPS, *widths)})
