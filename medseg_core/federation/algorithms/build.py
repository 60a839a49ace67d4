"""From the experiment to the algorithm that its [federation] names."""

from collections.abc import Sequence
from functools import partial

from medseg_core.config import Experiment, Training
from medseg_core.federation.algorithms.base import Algorithm
from medseg_core.federation.algorithms.ditto import Ditto
from medseg_core.federation.algorithms.fedadagrad import FedAdagrad
from medseg_core.federation.algorithms.fedadam import FedAdam
from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.federation.algorithms.fedbn import FedBN
from medseg_core.federation.algorithms.feddyn import FedDyn
from medseg_core.federation.algorithms.fednova import FedNova
from medseg_core.federation.algorithms.fedprox import FedProx
from medseg_core.federation.algorithms.fedrep import FedRep
from medseg_core.federation.algorithms.fedyogi import FedYogi
from medseg_core.federation.algorithms.fltrust import FLTrust
from medseg_core.federation.algorithms.geometric_median import GeometricMedian
from medseg_core.federation.algorithms.krum import Krum, MultiKrum
from medseg_core.federation.algorithms.median import Median
from medseg_core.federation.algorithms.moon import Moon
from medseg_core.federation.algorithms.norm_bounding import NormBounding
from medseg_core.federation.algorithms.qfedavg import QFedAvg
from medseg_core.federation.algorithms.scaffold import Scaffold
from medseg_core.federation.algorithms.silobn import SiloBN
from medseg_core.federation.algorithms.trimmed_mean import TrimmedMean
from medseg_core.learning.local_training import rates_of_round
from medseg_core.learning.networks import head_of

USUAL_MOMENTUM = 0.9  # Hsu et al. 2019; of fedavgm where the experiment gives none


def build_algorithm(experiment: Experiment) -> Algorithm:
    """The algorithm, with its parameters."""
    federation, training = experiment.federation, experiment.training
    robust, adaptive = federation.robust, federation.adaptive
    momentum, rate = federation.server_momentum, federation.server_learning_rate
    optimiser = (adaptive.learning_rate, adaptive.momentum, adaptive.second_momentum, adaptive.epsilon)
    match federation.algorithm:
        case "fedavg":
            return FedAvg(momentum, rate)
        case "fedprox":
            return FedProx(momentum, rate, federation.proximal_weight)
        case "fedavgm":
            return FedAvg(momentum or USUAL_MOMENTUM, rate)
        case "cyclic":
            return FedAvg()  # of the one site whose turn it is
        case "fedadagrad":
            return FedAdagrad(adaptive.learning_rate, 0.0, 0.0, adaptive.epsilon)
        case "fedadam":
            return FedAdam(*optimiser)
        case "fedyogi":
            return FedYogi(*optimiser)
        case "scaffold":
            return Scaffold(rate)
        case "fednova":
            rates = partial(_parts_of_rate, training, federation.rounds)
            return FedNova(momentum, rate, training.momentum, rates)
        case "feddyn":
            return FedDyn(federation.feddyn.weight)
        case "moon":
            return Moon(momentum, rate, federation.moon.weight, federation.moon.temperature)
        case "qfedavg":
            return QFedAvg(federation.qfedavg.fairness, training.learning_rate)
        case "fedbn":
            return FedBN(momentum, rate)
        case "silobn":
            return SiloBN(momentum, rate)
        case "ditto":
            return Ditto(momentum, rate, federation.ditto.weight)
        case "fedrep":
            return FedRep(momentum, rate, head_of(experiment.model), federation.fedrep.head_epochs)
        case "median":
            return Median(momentum, rate)
        case "trimmed_mean":
            return TrimmedMean(momentum, rate, robust.hostile_sites)
        case "krum":
            return Krum(momentum, rate, robust.hostile_sites)
        case "multi_krum":
            return MultiKrum(momentum, rate, robust.hostile_sites)
        case "geometric_median":
            return GeometricMedian(momentum, rate, robust.iterations)
        case "norm_bounding":
            return NormBounding(momentum, rate, robust.norm_bound)
        case "fltrust":
            return FLTrust(momentum, rate)


def _parts_of_rate(training: Training, rounds: int, round_number: int, n_steps: int) -> Sequence[float]:
    """The learning rate of each step of a round, as a part of the first of all."""
    return [rate / training.learning_rate for rate in rates_of_round(training, rounds, round_number, n_steps)]
