"""Does federation pay on real images? The documented accuracy benchmark.

    python tests/benchmarks/accuracy.py DATA [--tasks hippocampus,retina,sarcoma] [--seeds 0,1,2] [--out DIR]

DATA holds the folders `hippocampus`, `retina` and `sarcoma`, each with a manifest.csv or in another layout that medseg
reads: what `medseg-simulate fetch hippocampus` makes is to be renamed. Every run is a process of its own, started as a
researcher would start it, so wall time and memory are those of the whole command. A run of the same experiment, data
and commit that is there already is not repeated. Prints Markdown tables and writes `accuracy.json`.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from kept_runs import ensure_run, preset_with

from medseg_core.assessment.scores import by_site, own_site_cases, paired_difference, read_cases

HOW: dict[str, dict[str, Any]] = {
    "hippocampus": {"baselines": ["pooled"]},
    "retina": {"baselines": ["local"], "folds": 5},
    "sarcoma": {"baselines": ["local"], "folds": 5},
}


def run(task: str, seed: int, data: Path, out: Path) -> dict[str, Any]:
    """One run, and what it gave."""
    folder = out / f"{task}-{seed}"
    experiment = preset_with(task, {"federation": {"seed": seed}, "simulation": HOW[task]})
    summary = ensure_run(folder, experiment, data / task, out / f"cache-{task}-{seed}")
    return {"summary": summary, "sites": differences(folder, summary) if summary["local"] else {}}


def differences(folder: Path, summary: dict[str, Any]) -> dict[str, float]:
    """Mean paired difference global minus local, at each site and over all cases."""
    models = read_cases(folder / "cases.json")
    shared, local = by_site(models["global"]), by_site(own_site_cases(models))
    pairs = {site: (shared[site], local[site]) for site in shared} | {
        "all": (models["global"], own_site_cases(models))
    }
    found = {}
    for site, (ours, theirs) in pairs.items():
        difference = paired_difference(ours, theirs, seed=summary["seed"], samples=2000)
        assert difference is not None
        found[site] = difference.dice
    return found


def row(name: str, values: list[float], digits: int = 3) -> str:
    """Mean over seeds and each seed, as a line of a table."""
    return (
        f"| {name} | {statistics.mean(values):.{digits}f} | "
        + " | ".join(f"{v:.{digits}f}" for v in values)
        + " |"
    )


def table(task: str, results: list[dict[str, Any]], seeds: list[int]) -> str:
    """The figures of one task."""
    summaries = [r["summary"] for r in results]
    lines = [f"\n**{task}**\n", "| | mean | " + " | ".join(f"seed {s}" for s in seeds) + " |"]
    lines.append("| --- " * (2 + len(seeds)) + "|")
    for model in ("global", "pooled", "local"):
        if summaries[0][model]:
            lines.append(row(f"{model}: Dice", [s[model]["mean"]["dice"] for s in summaries], 4))
    if summaries[0]["pooled"]:
        gaps = [s["pooled"]["mean"]["dice"] - s["global"]["mean"]["dice"] for s in summaries]
        lines.append(row("pooled minus global", gaps, 4))
    for site in results[0]["sites"]:
        lines.append(row(f"global minus local, {site}", [r["sites"][site] for r in results], 4))
    costs = [s["cost"] for s in summaries]
    lines.append(row("wall_s", [c["wall_s"] for c in costs], 1))
    lines.append(row("training_s", [c["training_s"] for c in costs], 1))
    lines.append(row("wall_s / training_s", [c["wall_s"] / c["training_s"] for c in costs]))
    lines.append(row("peak memory, MB", [c["peak_rss_mb"] for c in costs], 0))
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--tasks", default="hippocampus,retina,sarcoma")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    record = {}
    for task in args.tasks.split(","):
        results = [run(task, seed, args.data, args.out) for seed in seeds]
        print(table(task, results, seeds), flush=True)  # noqa: T201
        record[task] = [{"global_minus_local": r["sites"], **r["summary"]} for r in results]
    (args.out / "accuracy.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
