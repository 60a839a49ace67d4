"""Samples a second of local training, beside nnU-Net's trainer on the same network, patches and batch.

    python tests/benchmarks/nnunet.py DATA --out FOLDER [--steps 8] [--turns 3] [--device cpu]

DATA holds the hippocampus. nnU-Net plans and preprocesses it by itself, and builds the network of its plan (3d_fullres)
without deep supervision, which our loss does not have. Both train that network with SGD, on batches and patches of the
plan's size, with transforms of equal kinds, chances and ranges; nnU-Net prepares them in processes of its own, as many
as it wants. Each side is a process, turn by turn; its first two steps are not timed. nnU-Net and medseg are installed
into FOLDER/peers, where they are not there yet. The last line is JSON.
"""

# ruff: noqa: T201
import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NNUNET, AIM = "nnunetv2==2.8.1", 1.3  # at least, times nnU-Net's
SIDES = ("medseg", "nnU-Net")
DATASET, CONFIGURATION = "Dataset004_Hippocampus", "3d_fullres"
ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", choices=SIDES, help="time this one alone, and print its rate")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("nnunetv2") is None:
        peers = installed(options.out / "peers")
        raise SystemExit(subprocess.run([peers, *sys.argv], check=False).returncode)
    names = {"raw": "nnUNet_raw", "preprocessed": "nnUNet_preprocessed", "results": "nnUNet_results"}
    os.environ |= {name: str(options.out.resolve() / folder) for folder, name in names.items()}
    match options.side:
        case None:
            prepare_nnunet(options.data, options.out)
            measure(options)
        case "medseg":
            print(Medseg(options).samples_a_second(options.steps))
        case "nnU-Net":
            print(NnUNet(options).samples_a_second(options.steps))


def installed(folder: Path) -> str:
    """The Python of an environment that has both."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for package in (
            ["torch"],
            [NNUNET],
            ["-e", f"{ROOT}[simulation]"],
        ):  # torch first: what it is pinned to
            command = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *package]
            subprocess.run(command, check=True, stdout=sys.stderr)
        (folder / "installed").touch()
    return str(python)


def prepare_nnunet(data: Path, out: Path) -> None:
    """The cases under nnU-Net's names, planned and preprocessed by it."""
    raw = out / "raw" / DATASET
    if (out / "preprocessed" / DATASET / f"nnUNetPlans_{CONFIGURATION}").exists():
        return
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    images = sorted((data / "imagesTr").glob("*.nii.gz"))
    for image in images:
        case = image.name.removesuffix(".nii.gz")
        shutil.copy(image, raw / "imagesTr" / f"{case}_0000.nii.gz")
        shutil.copy(data / "labelsTr" / image.name, raw / "labelsTr" / image.name)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": len(images),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    command = [Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess"), "-d", "4", "-c", CONFIGURATION]
    subprocess.run([*command, "-np", "2", "-npfp", "2"], check=True, stdout=sys.stderr)


def measure(options: argparse.Namespace) -> None:
    """Time both, print the ratio."""
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(options.turns):
        for side, values in rates.items():
            command = [sys.executable, *sys.argv, "--side", side]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            values.append(float(told.splitlines()[-1]))
        print({side: round(values[-1], 2) for side, values in rates.items()}, flush=True)
    ratios = [mine / theirs for mine, theirs in zip(*rates.values(), strict=True)]
    row = {
        "what": f"local training on {options.device}: samples a second, times nnU-Net's trainer",
        "value": round(statistics.median(ratios), 3),
        "unit": "x",
        "aim": f"at least {AIM}",
        "reached": statistics.median(ratios) >= AIM,
    }
    medians = {side: statistics.median(values) for side, values in rates.items()}
    print(json.dumps({"rows": [row], "samples_a_second": medians, "ratios": ratios}))


class NnUNet:
    """Its trainer on its plan, stepped as its `run_training` does."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        folder = options.out / "preprocessed" / DATASET
        plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": False}
        dataset = json.loads((folder / "dataset.json").read_text())
        self.trainer: Any = nnUNetTrainer(plans, CONFIGURATION, 0, dataset, torch.device(options.device))
        self.trainer.enable_deep_supervision = False
        self.trainer.initialize()

    def samples_a_second(self, steps: int) -> float:
        """Of so many steps after two that are not timed."""
        trainer = self.trainer
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        began = 0.0
        for number in range(steps + 2):
            if number == 2:
                began = time.perf_counter()
            trainer.train_step(next(trainer.dataloader_train))
        took = time.perf_counter() - began
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            loader._finish()  # ends the processes that prepare batches
        return steps * int(trainer.batch_size) / took


class Medseg:
    """Our local training of nnU-Net's network, on as many cases as make the steps."""

    def __init__(self, options: argparse.Namespace) -> None:
        from medseg_core.cohort.cache import prepare_cohort
        from medseg_core.config import parse_experiment
        from medseg_core.learning.device import choose_device, keep_freed_memory
        from medseg_core.learning.networks import lay_out
        from medseg_simulation.preset_files import read_preset

        device = choose_device(options.device)
        keep_freed_memory()  # as a site's trainer does
        peer = NnUNet(options).trainer
        document = read_preset("hippocampus").model_dump(mode="json", exclude_none=True)
        document["training"] |= {
            "optimiser": "sgd",
            "momentum": 0.99,
            "batch_size": int(peer.batch_size),
            "patch_size": [int(size) for size in peer.configuration_manager.patch_size],
            "augmentation": {"flip": [True] * 3, "low_resolution": 0.125},  # else the defaults, nnU-Net's
        }
        self._experiment = parse_experiment(document, source="nnunet.py")
        task, cache = self._experiment.task, options.out / "cache"
        self._cases = prepare_cohort(options.data, task, cache, threads=2, on_warning=print)
        self._network = getattr(peer.network, "_orig_mod", peer.network).to(
            device
        )  # not as nnU-Net compiles it
        lay_out(self._network)

    def samples_a_second(self, steps: int) -> float:
        """Of so many steps after two that are not timed."""
        self._train(2)
        began = time.perf_counter()
        self._train(steps)
        return steps * self._experiment.training.batch_size / (time.perf_counter() - began)

    def _train(self, steps: int) -> None:
        from medseg_core.learning.local_rule import LocalRule
        from medseg_core.learning.local_training import RoundContext, train_locally
        from medseg_core.learning.weights import get_weights

        n_cases = steps * self._experiment.training.batch_size
        many: Sequence[Any] = self._cases * (n_cases // len(self._cases) + 1)
        start, context = get_weights(self._network), RoundContext("bench", 1)
        cases = many[:n_cases]
        train_locally(self._network, cases, self._experiment, context=context, start=start, rule=LocalRule())


if __name__ == "__main__":
    main()
