"""Cost as work grows: time and memory against sites, parameters and cases, as a picture and JSON.

    python tests/benchmarks/growth.py --out FOLDER [--sites 4 16 64 256] [--millions 1 3 10 30 100] [--cases 16 64 ..]

Against sites (of 1 M parameters) and parameters (4 sites): one round of the server, as `server_memory.py` has it, less
the sites' own time. Against cases: a whole simulation of 2D phantoms, two sites and two rounds, each case seen once a
round; its memory is the largest resident of the process. A row says how cost grows between the two largest sizes: the
exponent p of cost ~ size^p, above what a run of the smallest size takes; 1 is linear. Without an exponent it does not
reach its aim: the cost was no larger than the smallest size's, and then was. FOLDER/growth.svg is the picture.
"""

# ruff: noqa: T201
import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))
from server_memory import measured

from medseg_core.config import experiment_toml, parse_experiment
from medseg_simulation.phantoms import PhantomSettings, write_phantoms
from medseg_simulation.preset_files import read_preset

LINEAR = 1.2  # an exponent up to which cost counts as near linear
SITES_OF_PHANTOMS = 2


@dataclass(frozen=True)
class Point:
    """What a size of the work took."""

    size: float
    seconds: float
    mib: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 16, 64, 256])
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 3, 10, 30, 100])
    parser.add_argument("--cases", type=int, nargs="+", default=[16, 64, 256, 1024])
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    curves = {
        "sites": [shown("sites", n, of_server(n, 1.0)) for n in options.sites],
        "million parameters": [shown("M", m, of_server(4, m)) for m in options.millions],
        "cases": [shown("cases", n, of_simulation(n, options.out / f"{n}-cases")) for n in options.cases],
    }
    draw(curves, options.out / "growth.svg")
    found = [row for what, points in curves.items() for row in rows(what, points)]
    print(json.dumps({"rows": found}))


def shown(unit: str, size: float, cost: tuple[float, float]) -> Point:
    """A point, printed when it is there."""
    point = Point(size, *cost)
    print(f"{size:7g} {unit:6} {point.seconds:8.2f} s {point.mib:8.0f} MiB", flush=True)
    return point


def of_server(n_sites: int, millions: float) -> tuple[float, float]:
    """Seconds of the server in a round, and MiB above the idle process."""
    found = measured(n_sites, millions)
    return found["seconds"], (found["peak_bytes"] - found["idle_bytes"]) / 2**20


def of_simulation(n_cases: int, out: Path) -> tuple[float, float]:
    """Seconds of a whole simulation, preprocessing included, and its largest MiB."""
    write_phantoms(out / "data", PhantomSettings(SITES_OF_PHANTOMS, n_cases // SITES_OF_PHANTOMS, 2))
    document = read_preset("phantom").model_dump(mode="json", exclude_none=True)
    document["task"]["spatial_dims"] = 2
    document["federation"]["rounds"], document["simulation"]["baselines"] = 2, []
    for section, key in (("task", "spacing_mm"), ("training", "patch_size")):
        if key in document[section]:
            document[section][key] = document[section][key][:2]
    experiment = out / "experiment.toml"
    experiment.write_text(experiment_toml(parse_experiment(document, source=str(experiment))))
    words = ["run", experiment, "--data", out / "data", "--out", out / "run", "--cache", out / "cache"]
    began = time.perf_counter()
    with (out / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "medseg_simulation", *words], stdout=log, stderr=log
        )
        _, status, used = os.wait4(running.pid, 0)
    assert status == 0, f"the simulation failed: see {out / 'log'}"
    return time.perf_counter() - began, used.ru_maxrss / 1024


def exponent(points: Sequence[Point], costs: Sequence[float]) -> float | None:
    """p of cost ~ size^p between the two largest sizes, of the cost above that of the smallest.

    0 where the largest costs no more than the smallest; None where the one before it does not, so that nothing tells.
    """
    (one, other), (of_one, of_other) = points[-2:], costs[-2:]
    first = points[0]
    if of_other <= costs[0]:
        return 0.0
    if of_one <= costs[0]:
        return None
    grown = math.log((of_other - costs[0]) / (of_one - costs[0]))
    return grown / math.log((other.size - first.size) / (one.size - first.size))


def rows(what: str, points: Sequence[Point]) -> list[dict[str, object]]:
    """How time and memory grow, with the aim; and all points."""
    found = []
    for cost, values in (
        ("seconds", [point.seconds for point in points]),
        ("MiB", [point.mib for point in points]),
    ):
        grows = exponent(points, values)
        listed = ", ".join(
            f"{point.size:g}: {value:.4g}" for point, value in zip(points, values, strict=True)
        )
        found.append(
            {
                "what": f"{cost} against {what} ({listed})",
                "value": None if grows is None else round(grows, 2),
                "unit": "exponent",
                "aim": f"at most {LINEAR}",
                "reached": grows is not None and grows <= LINEAR,
            }
        )
    return found


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    """Time above, memory below, one column for each kind of growth; a dotted line is linear from the last point."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "medseg", "font.size": 8.5}):
        figure = Figure(figsize=(10.4, 5.2), layout="constrained")
        grid = figure.subplots(2, len(curves), squeeze=False)
        for column, (what, points) in enumerate(curves.items()):
            sizes = [point.size for point in points]
            for line, (label, values) in enumerate(
                (("seconds", [p.seconds for p in points]), ("MiB", [p.mib for p in points]))
            ):
                axes = grid[line][column]
                axes.loglog(sizes, values, "o-", color="#0b5cad")
                axes.loglog(sizes, [values[-1] * size / sizes[-1] for size in sizes], ":", color="#5b6470")
                axes.set_xlabel(what)
                axes.set_ylabel(label)
                axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
                axes.minorticks_off()
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
