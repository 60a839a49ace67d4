"""What a codec saves on the wire, and what it costs in Dice. The documented benchmark of codecs.

    python tests/benchmarks/codecs.py DATA [--preset hippocampus] [--codecs int8,ternary,topk] [--seeds 0,1,2] [--out D]

Each run is a process, as a researcher starts it; one a seed is without a codec, to compare with. Bytes are those of
the whole run, both ways, evaluations and test included. The difference in Dice is paired by case; its interval is a
bootstrap over the patients of all seeds. A run of the same experiment, data and commit that is there already is not
repeated, or goes on; any other is made anew, as where files differ from the commit. Prints a Markdown table and, as its
last line, the rows for `make benchmark`.
"""

# ruff: noqa: T201

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kept_runs import ensure_run, preset_with

from medseg_core.assessment.scores import CaseScores, paired_difference, read_cases

AIMS = {
    "int8": (0.27, 0.002),
    "ternary": (0.05, 0.005),
    "topk": (0.05, 0.005),
}  # share of fp32's bytes, loss of Dice


def run(preset: str, data: Path, codec: str, seed: int, out: Path) -> dict[str, Any]:
    """One run's summary and test cases."""
    folds = {"folds": 5} if preset in ("retina", "sarcoma") else {}
    experiment = preset_with(
        preset, {"federation": {"seed": seed}, "codec": {"name": codec}, "simulation": folds}
    )
    folder = out / f"{preset}-{codec}-{seed}"
    summary = ensure_run(folder, experiment, data, out / "cache")
    return {"summary": summary, "cases": read_cases(folder / "cases.json")["global"]}


def compared(coded: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> tuple[float, Any]:
    """Share of the bytes of the runs without a codec, and the paired difference in Dice, over all seeds."""

    def n_bytes(runs: Sequence[dict[str, Any]]) -> int:
        return sum(r["summary"]["cost"]["bytes_down"] + r["summary"]["cost"]["bytes_up"] for r in runs)

    def cases(runs: Sequence[dict[str, Any]]) -> list[CaseScores]:  # under names of their own in each seed
        return [replace(c, case_id=f"{n}:{c.case_id}") for n, r in enumerate(runs) for c in r["cases"]]

    return n_bytes(coded) / n_bytes(plain), paired_difference(
        cases(coded), cases(plain), seed=0, samples=2000
    )


def row(what: str, value: float, aim: str, reached: bool) -> dict[str, Any]:
    """A row of `make benchmark`."""
    return {"what": what, "value": value, "unit": "", "aim": aim, "reached": reached}


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="hippocampus")
    parser.add_argument("--codecs", default="int8,ternary,topk")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/codecs"))
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    plain = [run(args.preset, args.data, "fp32", seed, args.out) for seed in seeds]
    print("| codec | bytes both ways | Dice minus fp32's (interval) | each seed |\n| --- | --- | --- | --- |")
    rows = []
    for codec in args.codecs.split(","):
        coded = [run(args.preset, args.data, codec, seed, args.out) for seed in seeds]
        share, dice = compared(coded, plain)
        each = [compared([c], [p])[1].dice for c, p in zip(coded, plain, strict=True)]
        interval = f"{dice.dice:+.4f} ({dice.low:+.4f} to {dice.high:+.4f})"
        print(f"| {codec} | {share:.4f} | {interval} | {', '.join(f'{d:+.4f}' for d in each)} |", flush=True)
        if codec in AIMS:
            most, loss = AIMS[codec]
            rows.append(
                row(
                    f"{args.preset}, {codec}: bytes both ways",
                    share,
                    f"at most {most} of fp32",
                    share <= most,
                )
            )
            rows.append(
                row(f"{args.preset}, {codec}: Dice", dice.dice, f"at least -{loss}", dice.dice >= -loss)
            )
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
