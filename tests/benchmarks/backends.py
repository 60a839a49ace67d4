"""Time and memory of simulations in one process and on Ray: ratios for speed, the peak of all processes for memory.

    python tests/benchmarks/backends.py --out FOLDER [--sites 4 --cases 12 --rounds 4] [--which NAME ..]

Each way of computing trains the same federation of phantom hospitals, turn by turn, `--turns` times, since other work
on the machine disturbs. Seconds a round are the median of all but the first, which warms up; memory is the
proportional set size (PSS) of the process and all that it started, in MB (10^6 bytes).
"""

# ruff: noqa: T201
import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil

from medseg_core.config import experiment_toml, parse_experiment
from medseg_simulation.phantoms import PhantomSettings, write_phantoms
from medseg_simulation.preset_files import read_preset

WAYS = {  # threads of a site, further options
    "one site at a time, two threads": (2, ["--sites-at-once", "1"]),
    "two sites at once, in process": (1, ["--sites-at-once", "2"]),
    "two Ray actors": (1, ["--sites-at-once", "2", "--backend", "ray"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--spatial-dims", type=int, default=3)
    parser.add_argument("--which", nargs="*", default=list(WAYS))
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    settings = PhantomSettings(options.sites, options.cases, options.spatial_dims)
    write_phantoms(options.out / "data", settings)
    seconds: dict[str, list[float]] = {way: [] for way in options.which}
    for turn in range(options.turns):
        for way in options.which:
            peak_mb, wall_s, round_s = measure(options, way, turn)
            seconds[way].append(round_s)
            print(
                f"{way}: {round_s:.2f} s a round, {wall_s:.1f} s in all, peak {peak_mb:.0f} MB",
                flush=True,
            )
    first = seconds[options.which[0]]
    for way, its in seconds.items():
        ratios = [a / b for a, b in zip(first, its, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        faster = f"{statistics.median(ratios):.2f} times as fast as the first ({spread})"
        print(f"{way}: median {statistics.median(its):.2f} s a round, {faster}")


def measure(options: argparse.Namespace, way: str, turn: int) -> tuple[float, float, float]:
    """Peak MB of all processes, seconds in all, seconds a round."""
    threads, words = WAYS[way]
    out = options.out / f"{list(WAYS).index(way)}-{turn}"
    document = read_preset("phantom").model_dump(mode="json", exclude_none=True)
    document["training"]["cpu_threads"] = threads
    document["federation"]["rounds"] = options.rounds
    document["simulation"] = {}
    if options.spatial_dims == 2:
        document["task"] |= {"spatial_dims": 2, "spacing_mm": [1.0, 1.0]}
        document["training"]["patch_size"] = [64, 64]
    experiment = options.out / f"{out.name}.toml"
    experiment.write_text(experiment_toml(parse_experiment(document, source="benchmark")))
    began = time.perf_counter()
    folders = ["--data", options.out / "data", "--out", out, "--cache", options.out / "cache"]
    run = subprocess.Popen(
        [sys.executable, "-m", "medseg_simulation", "run", experiment, *folders, "--device", "cpu", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak_mb = 0.0
    while run.poll() is None:
        peak_mb = max(peak_mb, pss_mb(run.pid))
        time.sleep(1.0)
    assert run.returncode == 0, way
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    ends = [e["time"] for e in events if e["event"] == "round_finished"]
    return peak_mb, time.perf_counter() - began, statistics.median(b - a for a, b in pairwise(ends))


def pss_mb(pid: int) -> float:
    """Memory of a process and all that it started; what they share is counted once."""
    total = 0
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            try:
                total += one.memory_full_info().pss
            except psutil.Error:
                continue
    except psutil.Error:
        return 0.0
    return total / 1e6


if __name__ == "__main__":
    main()
