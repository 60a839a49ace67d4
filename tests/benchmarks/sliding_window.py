"""Class probabilities of a whole scan of 234 x 232 x 85 voxels, beside MONAI's sliding window.

    python tests/benchmarks/sliding_window.py [--preset sarcoma] [--turns 3] [--threads N] [--device auto]

Equal result means equal windows: both take the patch of the preset, its overlap and Gaussian weights. All else is as
MONAI has it: its network as it builds it, with our weights, and one window at once (`SlidingWindowInferer`'s default;
the function has none). Beside it, without an aim, MONAI with as many windows at once as we take. The scan is noise:
the time does not depend on what it shows. Turn by turn, medians of the ratios. The last line is JSON.
"""

# ruff: noqa: T201
import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks import nets
from torch import nn

from medseg_core.config import Experiment
from medseg_core.learning.device import choose_device
from medseg_core.learning.inference import WINDOWS_AT_ONCE, inference_settings, predict_probabilities
from medseg_core.learning.networks import build_network, monai_definition
from medseg_simulation.preset_files import read_preset

SIZE = (234, 232, 85)
SPEED_AIM, DIFFERENCE_AIM = 1.5, 1e-3  # at least, at most
OURS, MONAI = "medseg", "MONAI"
MONAI_SEVERAL = f"MONAI, {WINDOWS_AT_ONCE} windows at once"

Probabilities = npt.NDArray[np.float32]  # (k, *SIZE)


@dataclass(frozen=True)
class Timed:
    """One prediction."""

    took_s: float
    used_s: float  # of processors
    probabilities: Probabilities


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=["sarcoma", "hippocampus"], default="sarcoma")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ways = predictors(read_preset(options.preset), choose_device(options.device))
    image = np.random.default_rng(0).standard_normal((1, *SIZE), np.float32)
    runs: dict[str, list[Timed]] = {name: [] for name in ways}
    for _ in range(options.turns):
        for name, predict in ways.items():
            runs[name].append(timed(predict, image))
            print(
                f"{name}: {runs[name][-1].took_s:.1f} s, of processors {runs[name][-1].used_s:.1f} s",
                flush=True,
            )
    what = f"sliding window of {' x '.join(map(str, SIZE))}, {options.preset} preset"
    print(json.dumps({"rows": rows(what, runs), "seconds": seconds(runs), "threads": options.threads}))


def predictors(
    experiment: Experiment, device: torch.device
) -> dict[str, Callable[[Probabilities], Probabilities]]:
    """Three ways from an image `(c, *SIZE)` to probabilities, of one and the same network."""
    settings = inference_settings(experiment)
    network = build_network(experiment.task, experiment.model, seed=0).to(device).eval()
    name, arguments = monai_definition(experiment.task, experiment.model)
    plain: nn.Module = getattr(nets, name)(**arguments)
    plain.load_state_dict(network.state_dict())
    plain.to(device).eval()

    def monai(image: Probabilities, windows_at_once: int) -> Probabilities:
        infer = SlidingWindowInferer(
            settings.patch_size, windows_at_once, settings.overlap, "gaussian", sw_device=device, device="cpu"
        )
        with torch.inference_mode():
            found = infer(torch.from_numpy(image[None]), lambda windows: plain(windows).softmax(1))
        assert isinstance(found, torch.Tensor)
        return found[0].numpy()

    return {
        OURS: lambda image: predict_probabilities(network, image, settings, device),
        MONAI: lambda image: monai(image, 1),
        MONAI_SEVERAL: lambda image: monai(image, WINDOWS_AT_ONCE),
    }


def timed(predict: Callable[[Probabilities], Probabilities], image: Probabilities) -> Timed:
    began, used = time.perf_counter(), time.process_time()
    found = predict(image)
    return Timed(time.perf_counter() - began, time.process_time() - used, found)


def rows(what: str, runs: dict[str, list[Timed]]) -> list[dict[str, object]]:
    """How much quicker than MONAI, and how far from its probabilities at most."""
    speed = ratio(runs, MONAI)
    difference = max(
        float(np.abs(ours.probabilities - theirs.probabilities).max())
        for ours, theirs in zip(runs[OURS], runs[MONAI], strict=True)
    )
    return [
        {
            "what": f"{what}: speed, times MONAI's",
            "value": round(speed, 3),
            "unit": "x",
            "aim": f"at least {SPEED_AIM}",
            "reached": speed >= SPEED_AIM,
        },
        {
            "what": f"{what}: largest difference in probability from MONAI's",
            "value": difference,
            "unit": "",
            "aim": f"at most {DIFFERENCE_AIM}",
            "reached": difference <= DIFFERENCE_AIM,
        },
    ]


def seconds(runs: dict[str, list[Timed]]) -> dict[str, object]:
    """Medians, and the speed beside MONAI with several windows at once."""
    return {
        **{name: statistics.median(run.took_s for run in its) for name, its in runs.items()},
        "of processors": {name: statistics.median(run.used_s for run in its) for name, its in runs.items()},
        f"times {MONAI_SEVERAL}": ratio(runs, MONAI_SEVERAL),
    }


def ratio(runs: dict[str, list[Timed]], peer: str) -> float:
    """Median over the turns of a peer's time by ours."""
    pairs = zip(runs[OURS], runs[peer], strict=True)
    return statistics.median(theirs.took_s / ours.took_s for ours, theirs in pairs)


if __name__ == "__main__":
    main()
