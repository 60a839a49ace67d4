"""`[model]` and `[training]`: the network, and how a site trains it."""

from typing import Annotated, Literal

from pydantic import Field

from medseg_core.config.section import Fraction, PositiveFloat, PositiveInt, Section, Size

NetworkName = Literal["unet", "dynunet", "attention_unet", "segresnet", "cnn3d"]


class Model(Section):
    """The network."""

    name: NetworkName = "unet"
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=7)] = (
        16,
        32,
        64,
        128,
    )  # MONAI tutorials
    residual_units: Annotated[int, Field(ge=0, le=4)] = 2  # Kerfoot et al. 2018
    normalisation: Literal["instance", "group", "batch"] = (
        "instance"  # nnU-Net; batch statistics differ by site
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def patch_multiple(self) -> int:
        """Voxels that the network's strides make into one: every spatial size must be a multiple of it."""
        return 1 if self.name == "cnn3d" else 2 ** (len(self.channels) - 1)


class Augmentation(Section):
    """Probability of each transform for a patch; ranges are nnU-Net's (Isensee et al. 2021, supplement 2)."""

    flip: tuple[bool, ...] = ()  # axes that may be mirrored; anatomy that has a side is not
    rotation: Fraction = 0.2
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    scaling: Fraction = 0.2
    scaling_range: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.4)
    elastic: Fraction = 0.0  # off in nnU-Net v2
    gamma: Fraction = 0.3
    contrast: Fraction = 0.15
    brightness: Fraction = 0.15
    noise: Fraction = 0.1
    blur: Fraction = 0.1
    low_resolution: Fraction = 0.1
    channel_dropout: Fraction = 0.0  # of each optional channel, never of all: as if the case had it not


class Training(Section):
    """Local training at a site."""

    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # SGD only
    schedule: Literal["poly", "cosine", "constant"] = "poly"  # nnU-Net: (1 - t)^0.9 over the whole run
    batch_size: PositiveInt = 2  # nnU-Net's smallest
    patch_size: Size
    foreground_fraction: Fraction = 0.33  # nnU-Net: a third of the patches centred on foreground
    loss: Literal["dice", "dice_ce", "dice_focal", "tversky", "generalised_dice"] = "dice_ce"  # nnU-Net
    gradient_clip_norm: Annotated[float, Field(ge=0)] = 12.0  # nnU-Net; 0: off
    mixed_precision: Literal["auto", "off", "bf16"] = "auto"  # auto: bf16 on CUDA devices that have it
    cpu_threads: Annotated[int, Field(ge=1, le=1024)] = 2  # part of the experiment: results depend on it
    augmentation: Augmentation | Literal[False] = Augmentation()
