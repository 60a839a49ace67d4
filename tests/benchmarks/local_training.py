"""Samples a second of local training, beside MONAI's dictionary transforms on the same cases and network.

    python tests/benchmarks/local_training.py DATA --cache FOLDER [--device auto] [--passes 2] [--turns 3] [--json FILE]

DATA holds the hippocampus. Both train the preset's network on its patches, batch and loss, with AdamW, gradient
clipping and transforms of equal kinds, chances and ranges. MONAI's cases lie in a `CacheDataset`, preprocessed; its
loader has no worker on a CPU that the training fills, and with a GPU as many as there are cores. Turn by turn, as other
work on the machine disturbs; the first pass of each is not timed.
"""

# ruff: noqa: T201
import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medseg_core.cohort.cache import prepare_cohort
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment
from medseg_core.learning.device import choose_device
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.local_training import RoundContext, train_locally
from medseg_core.learning.losses import build_loss
from medseg_core.learning.networks import build_network, monai_definition
from medseg_core.learning.weights import get_weights
from medseg_simulation.preset_files import read_preset

AIM = 2.0  # at least, times MONAI's


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, experiment = choose_device(options.device), read_preset("hippocampus")
    cases = prepare_cohort(
        options.data, experiment.task, options.cache, threads=options.threads, on_warning=print
    )
    workers = (len(os.sched_getaffinity(0))) if device.type == "cuda" else 0
    monai = Monai(cases, experiment, device, workers)
    rates: dict[str, list[float]] = {"medseg": [], "MONAI": []}
    waits = []
    for _ in range(options.turns):
        rate, waiting = medseg(cases, experiment, device, options.passes)
        rates["medseg"].append(rate)
        waits.append(waiting)
        rates["MONAI"].append(monai.samples_a_second(options.passes))
        print({name: round(values[-1], 1) for name, values in rates.items()}, flush=True)
    ratios = [ours / theirs for ours, theirs in zip(rates["medseg"], rates["MONAI"], strict=True)]
    ratio = statistics.median(ratios)
    row = {
        "what": f"local training on {device}: samples a second, times MONAI's dictionary transforms",
        "value": round(ratio, 3),
        "unit": "x",
        "aim": f"at least {AIM}",
        "reached": ratio >= AIM,
    }
    result = {
        "rows": [row],
        "device": str(device),
        "samples_a_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": ratio,
        "ratios": ratios,
        "preparing_patches": statistics.median(waits),  # share of the time
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    print(json.dumps(result))


def medseg(
    cases: Sequence[PreprocessedCase], experiment: Experiment, device: torch.device, passes: int
) -> tuple[float, float]:
    """Samples a second, and the share of the time in which the loop prepares patches."""
    network = build_network(experiment.task, experiment.model, seed=0).to(device)
    start = get_weights(network)

    def train(epochs: int) -> tuple[float, float]:
        lasting = {"federation": experiment.federation.model_copy(update={"local_epochs": epochs})}
        settings = experiment.model_copy(update=lasting)
        began = time.perf_counter()
        report, _ = train_locally(
            network, cases, settings, context=RoundContext("bench", 1), start=start, rule=LocalRule()
        )
        took = time.perf_counter() - began
        return epochs * len(cases) / took, report.waiting_s / took

    train(1)
    return train(passes)


class Monai:
    """A plain MONAI training loop, as its tutorials write it."""

    def __init__(
        self, cases: Sequence[PreprocessedCase], experiment: Experiment, device: torch.device, workers: int
    ) -> None:
        from monai.data import CacheDataset, DataLoader
        from monai.networks import nets

        self._experiment, self._device = experiment, device
        data = [{"image": np.array(case.image), "label": np.array(case.label)[None]} for case in cases]
        dataset = CacheDataset(data, transforms(experiment), cache_rate=1.0, progress=False)
        self._loader = DataLoader(
            dataset,
            batch_size=experiment.training.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )
        name, arguments = monai_definition(experiment.task, experiment.model)
        self._network: nn.Module = getattr(nets, name)(**arguments).to(device)
        self._n_cases = len(cases)
        self._train(1)

    def samples_a_second(self, passes: int) -> float:
        began = time.perf_counter()
        self._train(passes)
        return passes * self._n_cases / (time.perf_counter() - began)

    def _train(self, passes: int) -> None:
        training = self._experiment.training
        network, loss_of = self._network, build_loss(training.loss, self._experiment.task.n_classes)
        optimiser = torch.optim.AdamW(network.parameters(), lr=training.learning_rate)
        in_bf16 = self._device.type == "cuda"
        for _ in range(passes):
            for batch in self._loader:
                images = batch["image"].as_tensor().to(self._device, non_blocking=True)
                labels = batch["label"].as_tensor()[:, 0].long().to(self._device, non_blocking=True)
                optimiser.zero_grad(set_to_none=True)
                with torch.autocast(self._device.type, torch.bfloat16, enabled=in_bf16):
                    loss = loss_of(network(images), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), training.gradient_clip_norm or 1e9)
                optimiser.step()
                loss.item()


def transforms(experiment: Experiment) -> Any:
    """The preset's augmentation in MONAI's words; what is not random is cached."""
    from monai import transforms as mt

    training = experiment.training
    change = training.augmentation
    assert change
    size, both = training.patch_size, ["image", "label"]
    turn = float(np.deg2rad(change.rotation_degrees))
    low, high = change.scaling_range
    return mt.Compose(
        [
            mt.EnsureTyped(both),
            mt.SpatialPadd(both, size),
            mt.RandCropByPosNegLabeld(both, "label", size, pos=1, neg=2, num_samples=1, allow_smaller=False),
            mt.RandAffined(
                both,
                prob=change.rotation + change.scaling - change.rotation * change.scaling,
                rotate_range=[turn] * len(size),
                scale_range=[(low - 1, high - 1)] * len(size),
                mode=["bilinear", "nearest"],
                padding_mode="border",
            ),
            mt.RandGaussianNoised("image", prob=change.noise, std=0.1),
            mt.RandGaussianSmoothd("image", (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=change.blur),
            mt.RandScaleIntensityd("image", factors=0.25, prob=change.brightness),
            mt.RandAdjustContrastd("image", prob=change.gamma, gamma=(0.7, 1.5)),
            mt.RandScaleIntensityFixedMeand("image", factors=0.25, prob=change.contrast),
            mt.RandSimulateLowResolutiond("image", prob=change.low_resolution, zoom_range=(0.5, 1.0)),
            *(mt.RandFlipd(both, 0.5, axis) for axis, may in enumerate(change.flip) if may),
        ]
    )


if __name__ == "__main__":
    main()
