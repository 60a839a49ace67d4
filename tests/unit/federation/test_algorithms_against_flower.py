"""Our rules beside those of Flower's strategies on random updates, and where Flower's are not those of the papers.

Flower's strategies know no buffers and pass every array through the server's optimiser; so there are parameters only.
"""

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from medseg_core.federation.algorithms.base import Algorithm
from medseg_core.federation.algorithms.fedadagrad import FedAdagrad
from medseg_core.federation.algorithms.fedadam import FedAdam
from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.federation.algorithms.fedyogi import FedYogi
from medseg_core.federation.algorithms.krum import Krum, MultiKrum
from medseg_core.federation.algorithms.median import Median
from medseg_core.federation.algorithms.qfedavg import QFedAvg
from medseg_core.federation.algorithms.trimmed_mean import TrimmedMean
from medseg_core.federation.update import ClientUpdate, Tensors, spec_of

SHAPES = {"a.weight": (3, 2, 5), "a.bias": (3,), "b.weight": (7, 3)}
SITES, ROUNDS, TAU = 7, 3, 1e-2
CASES = (3, 11, 5, 7, 2, 13, 1)
ALIKE = (4,) * SITES

Sent = list[tuple[Tensors, float]]  # of each site: its update, its loss


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    gc.freeze()  # Flower collects garbage for every array that it reads
    yield
    gc.unfreeze()
    logging.getLogger("flwr").setLevel(logging.NOTSET)


def random_tensors(rng: np.random.Generator, scale: float) -> Tensors:
    return {name: rng.normal(0, scale, shape).astype(np.float32) for name, shape in SHAPES.items()}


def rounds_of_updates(seed: int) -> list[Sent]:
    rng = np.random.default_rng(seed)
    return [
        [(random_tensors(rng, 0.1), float(rng.uniform(0.2, 2.0))) for _ in range(SITES)]
        for _ in range(ROUNDS)
    ]


def ours(algorithm: Algorithm, start: Tensors, rounds: list[Sent], cases: tuple[int, ...]) -> list[Tensors]:
    """The weights after each round."""
    spec = spec_of(start, frozenset(SHAPES))
    state, after = algorithm.init(start, spec), []
    for sent in rounds:
        accumulator = algorithm.start(state, spec)
        for number, ((delta, loss), weight) in enumerate(zip(sent, cases, strict=True)):
            algorithm.add(
                accumulator, ClientUpdate(f"site{number}", delta, n_cases=weight, loss=loss), weight
            )
        counted = {f"site{number}": (state.round + 1, 1) for number in range(SITES)}
        state, _ = algorithm.finish(accumulator, state, counted=counted)
        after.append(state.weights)
    return after


def flowers(
    strategy: Any,
    start: Tensors,
    rounds: list[Sent],
    cases: tuple[int, ...],
    before: Callable[[Any, int], None],
) -> list[Tensors]:
    """The weights after each round; Flower's sites send weights, not updates."""
    weights, after = start, []
    for number, sent in enumerate(rounds, 1):
        strategy.current_arrays = current_arrays(strategy, weights)
        before(strategy, number)
        replies = [
            reply({name: weights[name] + delta[name] for name in SHAPES}, loss, n)
            for (delta, loss), n in zip(sent, cases, strict=True)
        ]
        arrays, _ = strategy.aggregate_train(number, replies)
        weights = {name: array.numpy() for name, array in arrays.items()}
        after.append(weights)
    return after


def current_arrays(strategy: Any, weights: Tensors) -> object:
    """What a strategy's `configure_train` keeps, which would ask a server for its nodes."""
    opts = (flower.FedAdagrad, flower.FedAdam, flower.FedYogi)
    return dict(weights) if isinstance(strategy, opts) else record(weights)


def record(tensors: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(tensor)) for name, tensor in tensors.items()})


def reply(weights: Tensors, loss: float, n_cases: int) -> object:
    """What a strategy reads of a message; one of Flower's own needs a run."""
    figures = MetricRecord({"num-examples": n_cases, "train_loss": loss})
    content = RecordDict({"arrays": record(weights), "metrics": figures})
    return SimpleNamespace(content=content, has_error=lambda: False)


def nothing(strategy: object, number: int) -> None:
    """Flower's rule is the paper's."""


def begin_as_the_paper(strategy: Any, number: int) -> None:
    """Reddi et al. 2021, algorithm 2, begin with v of tau^2 (any value of at least that); Flower with zero."""
    if number == 1:
        strategy.v_t = {name: np.full(shape, TAU**2, np.float32) for name, shape in SHAPES.items()}


def undo_the_correction(strategy: Any, number: int) -> None:
    """Flower's FedAdam corrects the bias of its moments as Kingma & Ba 2015 do, one round ahead; the paper does not."""
    begin_as_the_paper(strategy, number)
    correction = np.sqrt(1 - strategy.beta_2 ** (number + 1)) / (1 - strategy.beta_1 ** (number + 1))
    strategy.eta = 0.05 / correction


ADAPTIVE = {"eta": 0.05, "tau": TAU}
MOMENTS = {**ADAPTIVE, "beta_1": 0.9, "beta_2": 0.99}


@pytest.mark.parametrize(
    ("algorithm", "strategy", "cases", "before"),
    [
        (FedAvg(), flower.FedAvg(), CASES, nothing),
        (FedAvg(0.6, 0.5), flower.FedAvgM(server_momentum=0.6, server_learning_rate=0.5), CASES, nothing),
        (FedAdagrad(0.05, 0.0, 0.0, TAU), flower.FedAdagrad(**ADAPTIVE), CASES, begin_as_the_paper),
        (FedAdam(0.05, 0.9, 0.99, TAU), flower.FedAdam(**MOMENTS), CASES, undo_the_correction),
        (FedYogi(0.05, 0.9, 0.99, TAU), flower.FedYogi(**MOMENTS), CASES, begin_as_the_paper),
        (Median(), flower.FedMedian(), CASES, nothing),
        (TrimmedMean(hostile_sites=2), flower.FedTrimmedAvg(beta=2.01 / SITES), CASES, nothing),
        (Krum(hostile_sites=2), flower.Krum(num_malicious_nodes=2), CASES, nothing),
        # Blanchard et al. 2017 average the chosen alike; Flower by their cases
        (
            MultiKrum(hostile_sites=2),
            flower.MultiKrum(num_malicious_nodes=2, num_nodes_to_select=5),
            ALIKE,
            nothing,
        ),
        # Li et al. 2020b weigh losses by the sites' shares p; Flower has p the same for all
        (QFedAvg(1.5, 0.1), flower.QFedAvg(client_learning_rate=0.1, q=1.5), ALIKE, nothing),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Algorithm) else "",
)
def test_three_rounds_are_flowers(
    algorithm: Algorithm, strategy: Any, cases: tuple[int, ...], before: Callable[[Any, int], None]
) -> None:
    start, rounds = random_tensors(np.random.default_rng(1), 1.0), rounds_of_updates(2)
    pairs = zip(
        ours(algorithm, start, rounds, cases),
        flowers(strategy, start, rounds, cases, before),
        strict=True,
    )
    for mine, theirs in pairs:
        for name in SHAPES:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    ("algorithm", "strategy", "cases"),
    [
        (FedAdagrad(0.05, 0.0, 0.0, TAU), flower.FedAdagrad(**ADAPTIVE), CASES),
        (FedAdam(0.05, 0.9, 0.99, TAU), flower.FedAdam(**MOMENTS), CASES),
        (FedYogi(0.05, 0.9, 0.99, TAU), flower.FedYogi(**MOMENTS), CASES),
        (MultiKrum(hostile_sites=2), flower.MultiKrum(num_malicious_nodes=2, num_nodes_to_select=5), CASES),
        (QFedAvg(1.5, 0.1), flower.QFedAvg(client_learning_rate=0.1, q=1.5), CASES),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Algorithm) else "",
)
def test_flower_does_deviate_where_we_say_so(
    algorithm: Algorithm, strategy: Any, cases: tuple[int, ...]
) -> None:
    start, rounds = random_tensors(np.random.default_rng(1), 1.0), rounds_of_updates(2)
    (mine, *_), (theirs, *_) = (
        ours(algorithm, start, rounds, cases),
        flowers(strategy, start, rounds, cases, nothing),
    )
    assert max(float(np.abs(mine[name] - theirs[name]).max()) for name in SHAPES) > 1e-3
