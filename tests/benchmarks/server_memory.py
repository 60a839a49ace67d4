"""Memory of the server in one round of N sites, above the idle process, in models of float32.

    python tests/benchmarks/server_memory.py [--sites 4 16 64] [--millions 30]

The round loop itself (`medseg_server.rounds.train`) runs one round and its evaluation, in a process of its own for each
N; sites that train nothing hand over signed replies one at a time, written by another process. Idle is the process with
all libraries loaded, after a round with a small network; the peak is of its resident memory. The last line is JSON.
"""

# ruff: noqa: T201
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from builders import make_run
from fabricated_sites import FabricatedSites, experiment_of_size

from medseg_server.rounds import model_spec, train

AIM_MODELS, AIM_GROWTH = 5.0, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--millions", type=float, default=30.0)
    parser.add_argument("--measure", action="store_true", help="this process is the server")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.sites[0], options.millions * 1e6)))
        return
    models = {}
    for n in options.sites:
        found = measured(n, options.millions)
        models[n] = (found["peak_bytes"] - found["idle_bytes"]) / found["model_bytes"]
        idle, peak = (found[name] / 2**20 for name in ("idle_bytes", "peak_bytes"))
        print(f"{n:4} sites: idle {idle:.0f} MiB, peak {peak:.0f} MiB, {models[n]:.2f} models", flush=True)
    print(json.dumps({"rows": rows(models, options.millions)}))


def measured(n_sites: int, millions: float) -> dict[str, float]:
    """What `measure` finds in a new process."""
    command = [sys.executable, __file__, "--measure", "--sites", str(n_sites), "--millions", str(millions)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(n_sites: int, parameters: float) -> dict[str, float]:
    """Bytes of the idle process, at the peak, and of one model; seconds of the server in the round."""
    play_round(2, 1e4)
    idle_bytes = memory_of("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    model_bytes, seconds = play_round(n_sites, parameters)
    peak_bytes = memory_of("VmHWM")
    return {
        "idle_bytes": idle_bytes,
        "peak_bytes": peak_bytes,
        "model_bytes": model_bytes,
        "seconds": seconds,
    }


def play_round(n_sites: int, parameters: float) -> tuple[int, float]:
    """One round of a run and its evaluation: bytes of the model, and seconds that were not the sites'."""
    experiment = experiment_of_size(parameters, federation={"rounds": 1})
    spec = model_spec(experiment)
    shapes = {name: tensor.shape for name, tensor in spec.tensors.items()}
    names = tuple(f"site-{number:03d}" for number in range(n_sites))
    with (
        tempfile.TemporaryDirectory() as folder,
        FabricatedSites(names, shapes, Path(folder)) as transport,
    ):
        run, began = make_run(Path(folder) / "run", experiment, transport), time.perf_counter()
        (record,) = train(run).history
        assert len(record["contributed"]) == n_sites, record["absent"]
        return spec.n_bytes, time.perf_counter() - began - transport.seconds


def memory_of(name: str) -> int:
    """A figure of this process in bytes: VmRSS, VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def rows(models: dict[int, float], millions: float) -> list[dict[str, object]]:
    """The figures with their aims."""
    fewest, most = min(models), max(models)
    growth, largest = models[most] / models[fewest] - 1, max(models.values())
    counts = ", ".join(map(str, models))
    return [
        {
            "what": f"server memory above idle, one round of {counts} sites x {millions:g} M",
            "value": round(largest, 2),
            "unit": "fp32 models",
            "aim": f"at most {AIM_MODELS:g}",
            "reached": largest <= AIM_MODELS,
        },
        {
            "what": f"its growth from {fewest} to {most} sites",
            "value": round(100 * growth, 1),
            "unit": "%",
            "aim": f"under {100 * AIM_GROWTH:g}",
            "reached": growth < AIM_GROWTH,
        },
    ]


if __name__ == "__main__":
    main()
