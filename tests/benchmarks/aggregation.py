"""Aggregating one round's updates: ours, exact and independent of order, beside NumPy's float sum and Flower's FedAvg.

    python tests/benchmarks/aggregation.py [--sites 16] [--millions 30] [--turns 5]

All take turns in one process, update by update, on the same tensors: those of a 2D U-Net. Medians over the turns, of
seconds for all updates. Three ways through our code are timed: the weighted sum alone; from payload bytes to the next
weights, with decoding, all checks and the server's step; and opening the envelope (its SHA-256 and signature), which
neither NumPy nor Flower does. Flower aggregates as `flwr.serverapp.strategy.FedAvg` does, from records of arrays.
The last line is JSON.
"""

# ruff: noqa: T201
import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

sys.path.insert(0, str(Path(__file__).parents[1]))
from builders import COORDINATOR_KEY, make_request
from fabricated_sites import experiment_of_size

from medseg_core.config import Experiment
from medseg_core.federation.algorithms.base import ServerState
from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.federation.codec import decode_kinds, encode_tensors
from medseg_core.federation.exact_sum import ExactSum
from medseg_core.federation.update import DELTA, ClientUpdate, ModelSpec, check_update
from medseg_core.wire.envelope import Envelope, verify
from medseg_server.agreement import Direction, agreements, direction_of
from medseg_server.rounds import model_spec

DISTINCT = 4  # updates in memory, taken in turn: together more than a cache holds
NUMPY, FLOWER = "NumPy's sum in float32", "Flower's FedAvg, from records of arrays"
SUM, WHOLE = "ours: the sum", "ours: from payloads to the next weights"
OPENING = "ours: opening envelopes"
Tensors = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Round:
    """What came back in one round, in each form in which it is taken up."""

    experiment: Experiment
    spec: ModelSpec
    start: ServerState
    updates: list[Tensors]
    weights: list[int]

    def numpy_sum(self) -> Tensors:
        """The weighted mean in float32, tensor by tensor."""
        shares = [np.float32(weight / sum(self.weights)) for weight in self.weights]
        mean = {name: np.zeros(t.shape, np.float32) for name, t in self.spec.tensors.items()}
        for update, share in zip(self.updates, shares, strict=True):
            for name, tensor in update.items():
                mean[name] += share * tensor
        return mean

    def exact_sum(self) -> Tensors:
        """Ours, with its check that nothing overflows."""
        return exact_mean(self.spec, list(zip(self.updates, self.weights, strict=True)))

    def whole(self, payloads: list[bytes]) -> Tensors:
        """Ours as the round loop does it: from payloads to the weights of the next round."""
        algorithm, specs = FedAvg(), {DELTA: self.spec}
        directions: dict[str, Direction] = {}
        accumulator = algorithm.start(self.start, self.spec)
        for number, (payload, weight) in enumerate(zip(payloads, self.weights, strict=True)):
            tensors = decode_kinds(payload, specs, main=DELTA)[DELTA]
            check_update(tensors, self.spec, max_norm=None)
            algorithm.add(accumulator, ClientUpdate(f"site-{number}", tensors, n_cases=weight), weight)
            directions[f"site-{number}"] = direction_of(tensors, self.spec)
        agreements(directions)
        counted = dict.fromkeys(accumulator.sites, (1, 1))
        return dict(algorithm.finish(accumulator, self.start, counted=counted)[0].weights)


def exact_mean(spec: ModelSpec, terms: list[tuple[Tensors, int]]) -> Tensors:
    total = ExactSum(spec)
    for update, weight in terms:
        total.add(update, weight)
    return total.mean()


def open_all(envelopes: list[bytes]) -> None:
    """Read and verify envelopes."""
    for data in envelopes:
        verify(Envelope.from_bytes(data, max_bytes=len(data)), COORDINATOR_KEY.public_key())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=16)
    parser.add_argument("--millions", type=float, default=30.0)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    made = make_round(options.sites, options.millions * 1e6)
    seconds = {way: statistics.median(own) for way, own in timed(ways_of(made), options.turns).items()}
    size = f"{options.sites} x {made.spec.n_parameters / 1e6:.1f} M"
    print(f"{size} parameters: seconds for all updates, median of {options.turns}")
    for way, its in seconds.items():
        print(f"  {way:52} {its:7.2f}")
    print(json.dumps({"rows": rows(size, seconds, is_independent_of_order(made))}))


def make_round(n_sites: int, parameters: float) -> Round:
    experiment, rng = experiment_of_size(parameters), np.random.default_rng(0)
    spec = model_spec(experiment)

    def noise() -> Tensors:
        shapes = {name: tensor.shape for name, tensor in spec.tensors.items()}
        return {name: np.float32(0.01) * rng.standard_normal(s, np.float32) for name, s in shapes.items()}

    distinct = [noise() for _ in range(min(DISTINCT, n_sites))]
    updates = [distinct[site % len(distinct)] for site in range(n_sites)]
    start = FedAvg().init(noise(), spec)
    return Round(experiment, spec, start, updates, weights=[30 + site for site in range(n_sites)])


def ways_of(made: Round) -> dict[str, Callable[[], object]]:
    """What is timed, by name. Equal updates share their bytes in each form."""
    forms = {id(update): update for update in made.updates}
    payloads = {key: encode_tensors(update) for key, update in forms.items()}
    envelopes = {key: make_request(made.experiment, weights=data) for key, data in payloads.items()}
    arrays = {
        key: ArrayRecord({name: Array(tensor) for name, tensor in update.items()})
        for key, update in forms.items()
    }
    keys = [id(update) for update in made.updates]
    records = [
        RecordDict({"arrays": arrays[key], "metrics": MetricRecord({"num-examples": weight})})
        for key, weight in zip(keys, made.weights, strict=True)
    ]
    return {
        NUMPY: made.numpy_sum,
        SUM: made.exact_sum,
        FLOWER: lambda: aggregate_arrayrecords(records, "num-examples"),
        WHOLE: lambda: made.whole([payloads[key] for key in keys]),
        OPENING: lambda: open_all([envelopes[key] for key in keys]),
    }


def timed(ways: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds of each way in each turn, after one turn that warms up."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        for way, do in ways.items():
            began = time.perf_counter()
            do()
            if turn:
                seconds[way].append(time.perf_counter() - began)
    return seconds


def is_independent_of_order(made: Round) -> bool:
    """The sum of updates in the opposite order has the same bits."""
    terms = list(zip(made.updates, made.weights, strict=True))
    one, other = exact_mean(made.spec, terms), exact_mean(made.spec, terms[::-1])
    return all(one[name].tobytes() == other[name].tobytes() for name in made.spec.tensors)


def rows(size: str, seconds: dict[str, float], is_independent: bool) -> list[dict[str, object]]:
    """The figures with their aims."""
    of_sum, of_whole = seconds[SUM] / seconds[NUMPY], seconds[WHOLE] / seconds[FLOWER]
    to_flower = seconds[SUM] / seconds[FLOWER]
    opened = (seconds[WHOLE] + seconds[OPENING]) / seconds[FLOWER]
    return [
        row(f"exact sum of {size} against NumPy's fp32 sum", of_sum, "x", "at most 4", of_sum <= 4),
        row("the same sum in the opposite order", float(is_independent), "equal", "1", is_independent),
        row("exact sum against Flower's FedAvg", to_flower, "x", "below 1", to_flower < 1),
        row(
            "the same from payloads to next weights, with all checks", of_whole, "x", "below 1", of_whole < 1
        ),
        row("the same with opening envelopes, which Flower does not", opened, "x", "reported", True),
    ]


def row(what: str, value: float, unit: str, aim: str, reached: bool) -> dict[str, object]:
    return {"what": what, "value": round(value, 3), "unit": unit, "aim": aim, "reached": reached}


if __name__ == "__main__":
    main()
