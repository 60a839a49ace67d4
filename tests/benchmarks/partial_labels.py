"""Do two hospitals with one hippocampus label each train a model of both? The documented benchmark of partial labels.

    python tests/benchmarks/partial_labels.py DATA [--seeds 0,1,2] [--rounds 16] [--out DIR]

DATA is the hippocampus set (a manifest.csv with the labels 1 anterior, 2 posterior). Patients are shared out at random
between two sites. Two runs a seed, alike but for the labels: `full`, where both sites annotate both; `partial`, where
site-1 annotates the anterior and site-2 the posterior part alone. All test cases are scored on both labels. The aim is
a mean Dice of `partial` within 0.02 of `full`. A run that is there already is not repeated. Prints a Markdown table
and writes `partial_labels.json`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w

from medseg_core.config import Experiment
from medseg_simulation.preset_files import read_preset

AIM = 0.02  # of mean Dice
ONE_LABEL_EACH = {
    "site-1": {"not_annotated": ["posterior"]},
    "site-2": {"not_annotated": ["anterior"]},
}
KNOWN_TO = {"full": {}, "partial": ONE_LABEL_EACH}


def experiment_of(known: str, seed: int, rounds: int) -> dict[str, Any]:
    """The preset for two sites, as a document."""
    document = read_preset("hippocampus").model_dump(mode="json", exclude_none=True)
    document["federation"] |= {"rounds": rounds, "seed": seed}
    document["simulation"] |= {
        "sites": 2,
        "partition": "iid",
        "site": KNOWN_TO[known],
        "score_all_labels": True,
    }
    return Experiment.model_validate(document).model_dump(mode="json", exclude_none=True)


def run(known: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The summary of one run from the command line."""
    folder = args.out / f"{known}-{seed}-{args.rounds}"
    if not (folder / "summary.json").exists():
        args.out.mkdir(parents=True, exist_ok=True)
        path = folder.with_suffix(".toml")
        path.write_text(tomli_w.dumps(experiment_of(known, seed, args.rounds)))
        command = [sys.executable, "-m", "medseg_simulation", "run", str(path), "--data", str(args.data)]
        command += ["--out", str(folder), "--cache", str(args.out / "cache")]
        subprocess.run([*command, *(["--resume"] if folder.exists() else [])], check=True)
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def table(results: dict[str, list[dict[str, Any]]], seeds: list[int]) -> str:
    """Dice of both runs by label, and what partial labels cost."""
    lines = ["| Dice | mean | " + " | ".join(f"seed {seed}" for seed in seeds) + " |"]
    lines.append("| --- " * (2 + len(seeds)) + "|")
    means: dict[str, list[float]] = {}
    for known, summaries in results.items():
        for label in ("anterior", "posterior"):
            lines.append(row(f"{known}, {label}", [s["global"]["labels"][label]["dice"] for s in summaries]))
        means[known] = [s["global"]["mean"]["dice"] for s in summaries]
        lines.append(row(f"{known}, mean", means[known]))
    gaps = [full - partial for full, partial in zip(means["full"], means["partial"], strict=True)]
    lines.append(row(f"full minus partial (aim: at most {AIM})", gaps))
    return "\n".join(lines)


def row(name: str, values: list[float]) -> str:
    """Mean over seeds and each seed, as a line of a table."""
    return f"| {name} | " + " | ".join(f"{v:.4f}" for v in [statistics.mean(values), *values]) + " |"


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/partial-labels"))
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    results = {known: [run(known, seed, args) for seed in seeds] for known in KNOWN_TO}
    print(table(results, seeds))  # noqa: T201
    (args.out / "partial_labels.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
