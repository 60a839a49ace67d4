"""The coordinator's own labelled cases (`[evaluation] server_data`): the global model is scored on them, too.

These scores stand beside the sites'. They choose nothing: the round to keep is chosen by the sites' validation cases.
Where the algorithm wants an update to compare the sites' with, it is trained here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medseg_core.assessment.evaluation import evaluate_test, validation_dice
from medseg_core.assessment.scores import summarise
from medseg_core.cohort.cache import prepare_cohort
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment
from medseg_core.errors import DivergedError
from medseg_core.federation.update import delta
from medseg_core.learning.device import choose_device
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.local_training import RoundContext, train_locally
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import get_weights, set_weights

NAME = "coordinator"
Weights = dict[str, npt.NDArray[np.float32]]


class OwnData:
    """Prepared cases, and a network to score on them."""

    def __init__(self, cases: Sequence[PreprocessedCase], experiment: Experiment) -> None:
        self._cases, self._experiment = cases, experiment
        self.cases = tuple(case.case for case in cases)
        network = build_network(experiment.task, experiment.model, seed=0)
        self._network = network.to(choose_device("auto"))

    def dice(self, weights: Weights) -> float | None:
        """Mean Dice over all cases, on the preprocessed grid."""
        return validation_dice(self._with(weights), self._cases, self._experiment)

    def scores(self, weights: Weights) -> dict[str, float | int | None]:
        """Every metric on the grids of the files, and the interval of Dice over patients."""
        result = evaluate_test(self._with(weights), self._cases, self._experiment)
        seed, samples = self._experiment.federation.seed, self._experiment.evaluation.bootstrap_samples
        own: dict[str, float | int | None] = summarise(result.cases, seed=seed, samples=samples)["sites"][
            NAME
        ]
        return own

    def update(self, weights: Weights, round_number: int) -> Weights:
        """How far training moves these weights on all cases: as a site trains in that round, with a fresh optimiser.

        On the CPU it depends on the arguments and `cpu_threads` alone, so that a resumed round has the same.

        Raises DivergedError.
        """
        torch.set_num_threads(self._experiment.training.cpu_threads)
        context = RoundContext(NAME, round_number)
        train_locally(
            self._network, self._cases, self._experiment, context=context, start=weights, rule=LocalRule()
        )
        step = delta(get_weights(self._network), weights)
        if not all(np.isfinite(tensor).all() for tensor in step.values()):
            raise DivergedError(NAME, round_number)
        return step

    def _with(self, weights: Weights) -> torch.nn.Module:
        set_weights(self._network, weights)
        return self._network


def open_own_data(
    experiment: Experiment, *, base: Path, cache: Path, on_warning: Callable[[str], None]
) -> OwnData | None:
    """The cases that the experiment names, relative to `base`; None where it names none.

    Raises ManifestError, FaultyCasesError.
    """
    if experiment.evaluation.server_data is None:
        return None
    cases = prepare_cohort(
        base / experiment.evaluation.server_data,
        experiment.task,
        cache,
        threads=experiment.training.cpu_threads,
        on_warning=on_warning,
    )
    return OwnData([replace(c, case=replace(c.case, site=NAME)) for c in cases], experiment)
