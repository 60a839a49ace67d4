"""The training of `simulation_speed.py` in Flower's own simulation on Ray: FedAvg as it comes, no evaluation.

    python tests/benchmarks/flower_simulation.py PATCHES --rounds 3

PATCHES as in `plain_loop.py`; a node is a site, with one core and one thread.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

sys.path.insert(0, str(Path(__file__).parent))
from plain_loop import load, residual_unet, train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("patches", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sites = sorted(options.patches.absolute().glob("*.npz"))
    client, server, finished = ClientApp(), ServerApp(), []

    @client.train()
    def train_site(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        network = residual_unet()
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        images, labels = load(sites[int(context.node_config["partition-id"])])
        train(network, images, labels)
        counts = MetricRecord({"num-examples": len(images)})
        return Message(
            RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": counts}), reply_to=message
        )

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        start = ArrayRecord(residual_unet().state_dict())
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=len(sites))
        result = strategy.start(grid, start, num_rounds=options.rounds)
        finished.extend(result.train_metrics_clientapp)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, num_supernodes=len(sites), backend_config=resources)
    assert len(finished) == options.rounds, f"Flower finished {len(finished)} of {options.rounds} rounds"


if __name__ == "__main__":
    main()
