"""What a round of a federation costs besides training, and how much memory each process takes.

    python tests/benchmarks/round_overhead.py --out FOLDER

A coordinator and two phantom hospitals on loopback train a network of 1.2 million parameters. Overhead is the time from
the start of a round to the start of the next, with its evaluation, minus the training of the slowest site. The same of
stock Flower: `stock_flower.py`.
"""

# ruff: noqa: T201
import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from loopback import COORDINATOR, OF_COORDINATOR, ROLES, SITES, Loopback, make_loopback

from medseg_core.supervision import program

EXPERIMENT = """
[task]
name = "overhead"
spatial_dims = 2
channels = [{ name = "grey" }]
labels = { organ = 1, lesion = 2 }
[model]
channels = [28, 56, 112, 224]
[training]
patch_size = [32, 32]
cpu_threads = 1
[federation]
rounds = 11
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    out = parser.parse_args().out
    out.mkdir(parents=True)
    federation = make_loopback(out, EXPERIMENT, cases=4)
    peaks: dict[str, float] = {}
    with federation.kept_up():
        with (out / "runs.log").open("w") as log:
            run = subprocess.Popen(
                [program("medseg-server"), "run", COORDINATOR, "experiment.toml"],
                cwd=out,
                stdout=log,
                stderr=log,
            )
            while run.poll() is None:
                _watch(federation, peaks)
                time.sleep(0.5)
        assert run.returncode == 0, "the run failed: see runs.log"
    _print(federation, peaks)


def _watch(federation: Loopback, peaks: dict[str, float]) -> None:
    """Note the largest memory (resident set, MB) of each role."""
    for role in ROLES:
        for process in federation.find(role, COORDINATOR if role in OF_COORDINATOR else SITES[0]):
            try:
                family = [process, *process.children()] if role in ("gateway", "egress") else [process]
                mb = sum(p.memory_info().rss for p in family) / 1e6
            except psutil.NoSuchProcess:
                continue
            peaks[role] = max(mb, peaks.get(role, 0.0))


def _print(federation: Loopback, peaks: dict[str, float]) -> None:
    started = {e["round"]: e["time"] for e in federation.events if e["event"] == "round_started"}
    finished = {e["round"]: e for e in federation.events if e["event"] == "round_finished"}
    overhead = []
    for number in range(2, max(started)):  # the first round loads networks and data
        slowest = max(site["training_s"] for site in finished[number]["contributed"].values())
        overhead.append(started[number + 1] - started[number] - slowest)
    print(f"{len(overhead)} rounds; seconds a round besides training: median, shortest, longest")
    print(f"  {statistics.median(overhead):6.1f} {min(overhead):6.1f} {max(overhead):6.1f}")
    print("largest resident memory, MB")
    for role, mb in peaks.items():
        print(f"  {role:16} {mb:6.0f}")


if __name__ == "__main__":
    main()
