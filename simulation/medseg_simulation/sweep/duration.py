"""How long a sweep will take: measured on a few real steps, corrected by every run that ends."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from medseg_client.site_data import SiteData
from medseg_core.config import Experiment
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.local_training import RoundContext, train_locally
from medseg_core.learning.networks import build_network
from medseg_core.learning.prediction import segment_each
from medseg_core.learning.weights import get_weights
from medseg_server.participation import choose_participants, steps_of_round
from medseg_simulation.fold import Compute

BATCHES = 3  # that are timed, after one that is not: the first allocates


@dataclass(frozen=True)
class Pace:
    """Seconds on this machine with as many sites at once as will train: each divided by their number."""

    step_s: float
    case_s: float  # to segment one


def measure_pace(experiment: Experiment, data: Mapping[str, SiteData], compute: Compute) -> Pace:
    """Train and segment a little, on real cases, and forget it."""
    cases = [case for site in data.values() for case in site.train]
    asked = len(choose_participants(experiment, tuple(data), 1))
    at_once, batch = min(compute.sites_at_once, asked), experiment.training.batch_size
    networks = [
        build_network(experiment.task, experiment.model, seed=0).to(compute.device) for _ in range(at_once)
    ]
    start = get_weights(networks[0])
    few = [cases[n % len(cases)] for n in range(BATCHES * batch)]

    def steps(number: int, n_cases: int) -> None:
        context = RoundContext("pace", 1)
        train_locally(
            networks[number], few[:n_cases], experiment, context=context, start=start, rule=LocalRule()
        )

    def segmentation(number: int, n_cases: int) -> None:
        list(segment_each(networks[number], few[:n_cases], experiment))

    with ThreadPoolExecutor(at_once) as pool:

        def seconds(piece: object, n_cases: int) -> float:
            began = time.perf_counter()
            list(pool.map(piece, range(at_once), [n_cases] * at_once))  # type: ignore[arg-type]
            return (time.perf_counter() - began) / at_once

        seconds(steps, batch)
        timed = BATCHES * experiment.federation.local_epochs
        return Pace(seconds(steps, BATCHES * batch) / timed, seconds(segmentation, len(few)) / len(few))


def predict_training_s(experiment: Experiment, data: Mapping[str, SiteData], pace: Pace) -> float:
    """Seconds to train one model on the training cases of all sites, with its validation after the rounds."""
    rounds, sites = experiment.federation.rounds, tuple(data)
    steps = sum(
        steps_of_round(experiment, len(data[site].train))
        for number in range(1, rounds + 1)
        for site in choose_participants(experiment, sites, number)
    )
    validations = rounds / experiment.evaluation.every_rounds
    n_validation = sum(len(own.validation) for own in data.values())
    return steps * pace.step_s + validations * n_validation * pace.case_s


@dataclass
class Forecast:
    """What is left of a sweep whose runs take about as long as each other."""

    run_s: float  # predicted, of one
    runs_left: int
    _predicted_s: float = 0.0  # of what is done
    _taken_s: float = 0.0

    @property
    def left_s(self) -> float:
        """Seconds from now on, given how wrong the prediction was so far."""
        correction = self._taken_s / self._predicted_s if self._predicted_s else 1.0
        return self.runs_left * self.run_s * correction

    def note(self, runs: int, taken_s: float | None) -> None:
        """So many runs ended; None: they failed, and say nothing of how long others take."""
        self.runs_left -= runs
        if taken_s is not None:
            self._predicted_s += runs * self.run_s
            self._taken_s += taken_s
