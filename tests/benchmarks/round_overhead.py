"""What a round of a federation costs besides training, and how much memory each process takes.

    python tests/benchmarks/round_overhead.py --out FOLDER [--millions 30] [--rounds 11] [--codec int8]

A coordinator and two phantom hospitals on loopback, with mutual TLS, train a network of so many million parameters.
Overhead is the time from the start of a round to the start of the next, with its evaluation, minus the training of the
slowest site. Afterwards the same of stock Flower (`stock_flower.py`). The last line is JSON.
"""

# ruff: noqa: T201
import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from fabricated_sites import model_of_size
from loopback import COORDINATOR, OF_COORDINATOR, ROLES, SITES, Loopback, make_loopback

from medseg_core.supervision import program

EXPERIMENT = """
[task]
name = "overhead"
spatial_dims = 2
channels = [{{ name = "grey" }}]
labels = {{ organ = 1, lesion = 2 }}
[model]
{model}
[training]
patch_size = [32, 32]
cpu_threads = 1
[federation]
rounds = {rounds}
[codec]
name = "{codec}"
"""
WATCH_S = 2.0  # between looks at memory, each of which takes 0.1 s of a core
AIM_S = 12.0  # a round of 30 million parameters, less training

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--millions", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--codec", default="fp32", help="of the updates, both ways")
    options = parser.parse_args()
    out = options.out.absolute()
    out.mkdir(parents=True)
    model = "\n".join(f"{key} = {value}" for key, value in model_of_size(1e6 * options.millions).items())
    experiment = EXPERIMENT.format(model=model, rounds=options.rounds, codec=options.codec)
    federation = make_loopback(out, experiment, cases=4)
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
                time.sleep(WATCH_S)
        assert run.returncode == 0, "the run failed: see runs.log"
    ours = _overhead(federation)
    _print("rounds; seconds a round besides training", ours)
    print("largest resident memory, MB")
    for role, mb in peaks.items():
        print(f"  {role:16} {mb:6.0f}")
    words = ("--out", out / "flower", "--millions", str(options.millions))
    peer = subprocess.run(
        [sys.executable, HERE / "stock_flower.py", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    theirs = json.loads(peer.stdout.splitlines()[-1])["seconds"]
    _print("rounds of stock Flower; seconds a round", theirs)
    print(json.dumps({"rows": rows(options, ours, theirs), "seconds": [ours, theirs]}))


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


def _overhead(federation: Loopback) -> list[float]:
    """Seconds of each round but the first, which loads networks and data, and the last, which none follows."""
    started = {e["round"]: e["time"] for e in federation.events if e["event"] == "round_started"}
    finished = {e["round"]: e for e in federation.events if e["event"] == "round_finished"}
    overhead = []
    for number in range(2, max(started)):
        slowest = max(site["training_s"] for site in finished[number]["contributed"].values())
        overhead.append(started[number + 1] - started[number] - slowest)
    return overhead


def _print(what: str, seconds: list[float]) -> None:
    print(f"{len(seconds)} {what}: median, shortest, longest")
    print(f"  {statistics.median(seconds):6.1f} {min(seconds):6.1f} {max(seconds):6.1f}")


def rows(options: argparse.Namespace, ours: list[float], theirs: list[float]) -> list[dict[str, object]]:
    """The figures with their aims."""
    seconds, ratio = statistics.median(ours), statistics.median(ours) / statistics.median(theirs)
    size = f"2 sites x {options.millions:g} M, {options.codec}, TLS on loopback, less training"
    return [
        {
            "what": f"a round of {size}",
            "value": round(seconds, 1),
            "unit": "s",
            "aim": f"at most {AIM_S:g}",
            "reached": seconds <= AIM_S,
        },
        {
            "what": "the same, times a round of stock Flower without TLS",
            "value": round(ratio, 3),
            "unit": "x",
            "aim": "below 1",
            "reached": ratio < 1,
        },
    ]


if __name__ == "__main__":
    main()
