"""A simulation as a whole process, beside a plain PyTorch loop of the same steps and Flower's simulation on Ray.

    python tests/benchmarks/simulation_speed.py [--turns 3] [--rounds 3] [--backend in-process] [--peers flower]

4 sites x 3 rounds x 4 steps of the hippocampus preset's network, batch 4 of 48 x 64 x 48. Each site has 16 cases to
train, each of the size of a patch and not augmented, so that all train on the same voxels, and one each to validate and
to test: ours scores these as it always does, besides checkpoints, report and summary.json. The plain loop has all
cores, MONAI's network and our loss; with `--peers loop-with-our-network` it runs once more with that, so that the ratio
is what a simulation costs besides training. Flower has MONAI's network, too, and evaluates nothing. All read prepared
arrays; turn by turn, medians of the ratios. The last line is JSON.

With `--backend ray` the aim is for runs of over two minutes: `--rounds 40`, say.
"""

# ruff: noqa: T201
import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medseg_core.cohort.cache import prepare_cohort
from medseg_core.cohort.split import split_cases
from medseg_core.config import Experiment, experiment_toml, parse_experiment
from medseg_core.imaging.io import write_image, write_label
from medseg_core.types import Case, Geometry
from medseg_simulation.preset_files import read_preset

SITES, TRAINING_CASES, PATCH = 4, 16, (48, 64, 48)
AIMS = {"in-process": 1.15, "ray": 0.85}  # at most, times the plain loop
LONG_S = 120.0  # of the plain loop: below it Ray's start, of some seconds, decides
PEERS = {"flower": "Flower on Ray", "loop-with-our-network": "plain loop with our network"}
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", choices=list(AIMS), default="in-process")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(Path(folder), options)
    for name, its in seconds.items():
        print(f"{name}: {statistics.median(its):.1f} s ({min(its):.1f} to {max(its):.1f})")
    print(json.dumps({"rows": rows(seconds, options), "seconds": seconds}))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each process, by turn."""
    experiment = experiment_of(options.rounds)
    (folder / "experiment.toml").write_text(experiment_toml(experiment))
    write_data(folder, experiment)
    ours = [sys.executable, "-m", "medseg_simulation", "run", folder / "experiment.toml", "--device", "cpu"]
    ours += ["--data", folder / "data", "--cache", folder / "cache", "--backend", options.backend]
    loop = [sys.executable, HERE / "plain_loop.py", folder / "patches", "--rounds", str(options.rounds)]
    loop += ["--weights", folder / "weights.pt"]
    flower = [sys.executable, HERE / "flower_simulation.py", folder / "patches"]
    flower += ["--rounds", str(options.rounds)]
    seconds: dict[str, list[float]] = {}
    for turn in range(options.turns):
        commands = {
            "plain loop": loop,
            "medseg": [*ours, "--out", folder / f"run-{turn}"],
        }
        peers = {"flower": flower, "loop-with-our-network": [*loop, "--network", "medseg"]}
        commands |= {PEERS[peer]: peers[peer] for peer in options.peers}
        for name, command in commands.items():
            took_s, used_s = timed(command, folder / "output.txt")
            seconds.setdefault(name, []).append(took_s)
            print(f"{name}: {took_s:.1f} s, of processors {used_s:.1f} s", flush=True)
        summary = json.loads((folder / f"run-{turn}" / "summary.json").read_text())
        trained = [site["cases"]["train"] for site in summary["sites"].values()]
        assert trained == SITES * [TRAINING_CASES], trained
    return seconds


def experiment_of(rounds: int) -> Experiment:
    """The preset with the steps that are compared."""
    document = read_preset("hippocampus").model_dump(mode="json", exclude_none=True)
    training = {"patch_size": PATCH, "batch_size": 4, "augmentation": False, "cpu_threads": 1}
    document["training"] |= training
    document["federation"] = {"rounds": rounds}
    document["simulation"] = {"partition": "natural"}
    return parse_experiment(document, source="simulation_speed.py")


def write_data(folder: Path, experiment: Experiment) -> None:
    """A data set for ours, prepared in its cache; the same cases as arrays for the others."""
    rng, columns = np.random.default_rng(0), ["case_id", "patient_id", "site", "image", "label"]
    geometry = Geometry(PATCH, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    (folder / "data").mkdir()
    with (folder / "data" / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        for number in range(SITES):
            for case, patient in cases_of(f"site-{number}"):
                label = np.zeros(PATCH, np.uint8)
                label[16:32, 16:32, 16:32], label[16:32, 32:48, 16:32] = 1, 2
                image = (100 * label + rng.normal(200, 30, PATCH)).astype(np.float32)
                names = f"{case}-image.nii.gz", f"{case}-label.nii.gz"
                write_image(folder / "data" / names[0], image, geometry)
                write_label(folder / "data" / names[1], label, geometry)
                table.writerow(dict(zip(columns, (case, patient, f"site-{number}", *names), strict=True)))
    prepared = prepare_cohort(folder / "data", experiment.task, folder / "cache", threads=2, on_warning=print)
    (folder / "patches").mkdir()
    for number in range(SITES):
        split = split_cases([p.case for p in prepared if p.case.site == f"site-{number}"], site="", seed=0)
        training = [p for p in prepared if p.case in split.train]
        assert len(training) == TRAINING_CASES
        images, labels = np.stack([p.image for p in training]), np.stack([p.label for p in training])
        np.savez(folder / "patches" / f"site-{number}.npz", images=images, labels=labels)


def cases_of(site: str) -> list[tuple[str, str]]:
    """Names of cases and their patients: of three patients, the one whom the split gives to training has most."""
    patients = [f"{site}-patient-{number}" for number in range(3)]
    split = split_cases([Case(p, p, site, (), None) for p in patients], site=site, seed=0)
    counts = {p: TRAINING_CASES if p == split.train[0].patient_id else 1 for p in patients}
    return [(f"{patient}-{number}", patient) for patient, n in counts.items() for number in range(n)]


def timed(command: list[str | Path], output: Path) -> tuple[float, float]:
    """Seconds of a process from its start to its end, and of processors that it and its children used.

    The second tells on a busy machine what the first does not; Ray's actors are no children.
    """
    began = time.perf_counter()
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    assert status == 0, output.read_text()[-3000:]
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


def rows(seconds: dict[str, list[float]], options: argparse.Namespace) -> list[dict[str, object]]:
    """Ours against each other, as `compare.py` takes them."""
    backend, found = options.backend, []
    aims = {"plain loop": AIMS[backend], "Flower on Ray": 1.0}
    for name in [name for name in seconds if name != "medseg"]:
        ratios = [ours / its for ours, its in zip(seconds["medseg"], seconds[name], strict=True)]
        ratio, aim = statistics.median(ratios), f"at most {aims[name]}" if name in aims else "reported"
        if name in aims and backend == "ray" and statistics.median(seconds["plain loop"]) < LONG_S:
            aim += f", and the plain loop at least {LONG_S:.0f} s"
        found.append(
            {
                "what": f"simulation, {backend}, {options.rounds} rounds: time of {name}",
                "value": round(ratio, 3),
                "unit": "x",
                "aim": aim,
                "reached": name not in aims or (ratio <= aims[name] and " and " not in aim),
            }
        )
    return found


if __name__ == "__main__":
    main()
