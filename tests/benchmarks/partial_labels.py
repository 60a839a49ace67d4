"""Do two hospitals with one hippocampus label each train a model of both? The documented benchmark of partial labels.

    python tests/benchmarks/partial_labels.py DATA [--seeds 0,1,2] [--rounds 16] [--out DIR]

DATA is the hippocampus set (a manifest.csv with the labels 1 anterior, 2 posterior). Patients are shared out at random
between two sites. Three runs a seed, alike but for what site-1 knows of the posterior and site-2 of the anterior part:

    full       all of it, as in the files
    partial    nothing: `not_annotated`
    naive      nothing, and takes it for background, as without a label contract

The recipe is the preset's but for the learning rate, of which `full` and `partial` each have the best of three on the
validation of another seed; `naive` has that of `partial`. All test cases are scored on both labels. The aim is a mean
Dice of `partial` within 0.02 of `full`. Of `naive` the last round is scored: its validation rewards drawing nothing,
and would choose an early one. A run of the same experiment, data and commit that is there already is not repeated.
Prints a Markdown table and writes `partial_labels.json`.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from kept_runs import ensure_run, preset_with

from medseg_core.assessment.model_evaluation import evaluate_cases
from medseg_core.assessment.scores import CaseScores, read_cases
from medseg_core.cohort.manifest import read_cohort
from medseg_core.federation.checkpoint import newest_checkpoint
from medseg_core.learning.model_package import read_model
from medseg_core.learning.weights import set_weights

AIM = 0.02  # of mean Dice
LABELS = {"anterior": 1, "posterior": 2}
ABSENT = 99  # a value that no file holds
# Of 2e-3, 4e-3 and 9e-3, with the server's momentum 0 and 0.6: the best validation Dice with seed 100. With seed 101
# `partial` is best with it, too.
LEARNING_RATES = {"full": 9e-3, "partial": 4e-3, "naive": 4e-3}
UNKNOWN_AT = {"site-1": "posterior", "site-2": "anterior"}
KNOWN: dict[str, dict[str, Any]] = {
    "full": {},
    "partial": {site: {"not_annotated": [label]} for site, label in UNKNOWN_AT.items()},
    "naive": {
        site: {"labels": {label: ABSENT}, "background": [LABELS[label]]} for site, label in UNKNOWN_AT.items()
    },
}


def run(known: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Mean Dice of each label over the test cases of one run."""
    two_sites = {"sites": 2, "partition": "iid", "site": KNOWN[known], "score_all_labels": True}
    changes = {
        "training": {"learning_rate": LEARNING_RATES[known]},
        "federation": {"rounds": args.rounds, "seed": seed},
        "simulation": two_sites,
    }
    experiment = preset_with("hippocampus", changes)
    folder = args.out / f"{known}-{seed}-{args.rounds}"
    ensure_run(folder, experiment, args.data, args.out / "cache")
    tested = read_cases(folder / "cases.json")["global"]
    if known == "naive":
        tested = score_last_round(folder, args.data, {case.case_id for case in tested})
    return {label: statistics.mean(case.labels[label].dice for case in tested) for label in LABELS}


def score_last_round(folder: Path, data: Path, names: set[str]) -> list[CaseScores]:
    """Scores of the newest checkpoint on some cases, with the labels that the files hold."""
    model = read_model(folder / "model")
    checkpoint = newest_checkpoint(folder / "checkpoints", on_torn=lambda why: None)
    assert checkpoint is not None
    set_weights(model.network, dict(checkpoint.state.weights))
    cases = [case for case in read_cohort(data, model.experiment.task).cases if case.case_id in names]
    return evaluate_cases(model, cases)


def table(results: dict[str, list[dict[str, float]]], seeds: list[int]) -> str:
    """Dice of each run by label, and what it lacks of full labels."""
    lines = ["| Dice | mean | " + " | ".join(f"seed {seed}" for seed in seeds) + " |"]
    lines.append("| --- " * (2 + len(seeds)) + "|")
    means = {
        known: [statistics.mean(dice.values()) for dice in by_seed] for known, by_seed in results.items()
    }
    for known, by_seed in results.items():
        lines += [row(f"{known}, {label}", [dice[label] for dice in by_seed]) for label in LABELS]
        lines.append(row(f"{known}, mean", means[known]))
    for known in ("partial", "naive"):
        gaps = [full - other for full, other in zip(means["full"], means[known], strict=True)]
        lines.append(
            row(f"full minus {known}" + (f" (aim: at most {AIM})" if known == "partial" else ""), gaps)
        )
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
    results = {known: [run(known, seed, args) for seed in seeds] for known in KNOWN}
    print(table(results, seeds))  # noqa: T201
    (args.out / "partial_labels.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
