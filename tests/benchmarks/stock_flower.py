"""What a round costs in stock Flower, beside `round_overhead.py`: FedAvg as it comes, two nodes, on loopback.

    python tests/benchmarks/stock_flower.py --out FOLDER [--millions 30]

The model has so many million float32 parameters in 16 arrays; each node imports torch, as one that trains does, and
sends back the arrays, changed, at once: what Flower has stored already it would not send. A round is training and
evaluation. No TLS, no node authentication: what a quickstart has. The last line is JSON.
"""

# ruff: noqa: T201
import argparse
import itertools
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import tomli_w

from medseg_core.supervision import free_ports, program

ROUNDS = 7
PROJECT = """
[project]
name = "stock"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "stock"
[tool.flwr.app.components]
serverapp = "stock.server:app"
clientapp = "stock.client:app"
[tool.flwr.app.config]
times = ""
rounds = 0
parameters = 0
"""
SERVER = """
import time
from pathlib import Path
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid, context):
    size = context.run_config["parameters"] // 16
    rng = np.random.default_rng(0)
    arrays = ArrayRecord([rng.standard_normal(size, np.float32) for _ in range(16)])
    def note(number, arrays):
        with Path(context.run_config["times"]).open("a") as file:
            file.write(f"{time.time()}\\n")
    FedAvg(min_available_nodes=2).start(
        grid, arrays, num_rounds=context.run_config["rounds"], evaluate_fn=note
    )
"""
CLIENT = """
import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    changed = [array + np.float32(context.node_id % 997 + 1) for array in message.content["arrays"].to_numpy_ndarrays()]
    content = {"arrays": ArrayRecord(changed), "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=message)

@app.evaluate()
def evaluate(message, context):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "dice": 0.5})}), reply_to=message)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--millions", type=float, default=30.0)
    options = parser.parse_args()
    out = options.out.absolute()
    _write_app(out / "app")
    superlink, *nodes = free_ports(3)
    started: list[subprocess.Popen[bytes]] = []
    try:
        _start(started, out, "superlink", "flower-superlink", "--insecure", "--port", str(superlink))
        time.sleep(5)
        for port in nodes:
            words = ("--superlink", f"127.0.0.1:{superlink}", "--port", str(port), "--host", "127.0.0.1")
            _start(started, out, f"node-{port}", "flower-supernode", "--insecure", *words)
        seconds = _run(out, superlink, round(1e6 * options.millions))
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
    print(f"{len(seconds)} rounds of stock Flower; seconds a round: median, shortest, longest")
    print(f"  {statistics.median(seconds):6.1f} {min(seconds):6.1f} {max(seconds):6.1f}")
    print(json.dumps({"seconds": seconds}))


def _write_app(folder: Path) -> None:
    (folder / "stock").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "stock" / "__init__.py").touch()
    (folder / "stock" / "server.py").write_text(SERVER)
    (folder / "stock" / "client.py").write_text(CLIENT)


def _environment(out: Path) -> dict[str, str]:
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    path = f"{Path(program('flwr')).parent}{os.pathsep}{os.environ['PATH']}"
    home = {"FLWR_HOME": str(out / "flower"), "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}
    return {**os.environ, **quiet, **home, "PATH": path}


def _start(started: list[subprocess.Popen[bytes]], out: Path, name: str, *words: str) -> None:
    with (out / f"{name}.log").open("w") as log:
        command = [program(words[0]), *words[1:]]
        started.append(subprocess.Popen(command, env=_environment(out), stdout=log, stderr=log))


def _run(out: Path, superlink: int, parameters: int) -> list[float]:
    """Seconds of each round but the first, which loads what later ones have."""
    (out / "flower").mkdir(exist_ok=True)
    connection = {"address": f"127.0.0.1:{superlink}", "insecure": True}
    document = {"superlink": {"default": "here", "here": connection}}
    (out / "flower" / "config.toml").write_text(tomli_w.dumps(document))
    times = out / "times"
    words = (
        "run",
        str(out / "app"),
        "here",
        "--run-config",
        f'times="{times}" rounds={ROUNDS} parameters={parameters}',
        "--format",
        "json",
    )
    done = subprocess.run(
        [program("flwr"), *words], env=_environment(out), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["success"], done.stdout
    end = time.monotonic() + 60.0 * ROUNDS
    noted: list[float] = []
    while len(noted) <= ROUNDS:
        assert time.monotonic() < end, f"only {len(noted)} rounds: see the logs in {out}"
        time.sleep(1)
        noted = [float(line) for line in times.read_text().split()] if times.exists() else []
    return [later - earlier for earlier, later in itertools.pairwise(noted[1:])]


if __name__ == "__main__":
    main()
