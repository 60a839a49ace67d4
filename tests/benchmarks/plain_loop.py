"""The training of `simulation_speed.py` as a plain PyTorch loop: the same steps, and nothing besides.

    python tests/benchmarks/plain_loop.py PATCHES --rounds 3 --weights FILE [--network monai]

The network is MONAI's as it comes, or `medseg`: the same as ours builds it, laid out and differentiated for a CPU.
PATCHES holds `NAME.npz` for each site: `images`, float32 `(n, 1, *patch)`, and `labels`, uint8 `(n, *patch)`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medseg_core.learning.losses import build_loss
from medseg_core.learning.networks import build_network, monai_definition
from medseg_simulation.preset_files import read_preset

BATCH_SIZE, CLIP_NORM = 4, 12.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("patches", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", choices=["monai", "medseg"], default="monai")
    parser.add_argument("--weights", type=Path, required=True, help="where they are written in the end")
    options = parser.parse_args()
    network = our_unet() if options.network == "medseg" else residual_unet()
    sites = [load(path) for path in sorted(options.patches.glob("*.npz"))]
    for _ in range(options.rounds):
        for images, labels in sites:
            train(network, images, labels)
    torch.save(network.state_dict(), options.weights)


def residual_unet() -> nn.Module:
    """The network of the hippocampus preset, 1.2 million parameters, as MONAI has it."""
    from monai.networks import nets

    preset = read_preset("hippocampus")
    name, arguments = monai_definition(preset.task, preset.model)
    torch.manual_seed(0)
    network: nn.Module = getattr(nets, name)(**arguments)
    return network


def our_unet() -> nn.Module:
    """The same as ours builds it."""
    preset = read_preset("hippocampus")
    return build_network(preset.task, preset.model, seed=0)


def load(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(n, 1, *patch)` and labels `(n, *patch)` of one site."""
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])


def train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One pass over the patches of a site, with a fresh optimiser."""
    loss_of = build_loss("dice_ce", n_classes=3)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    network.train()
    for chosen in torch.randperm(len(images)).split(BATCH_SIZE):
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(network(images[chosen]), labels[chosen])
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimiser.step()


if __name__ == "__main__":
    main()
