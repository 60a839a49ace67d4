"""`[federation]`: who aggregates what, how often, by which algorithm."""

from typing import Annotated, Literal

from pydantic import Field

from medseg_core.config.section import Name, PositiveInt, Section

AlgorithmName = Literal[
    "fedavg",
    "fedprox",
    "fedavgm",
    "fedadagrad",
    "fedadam",
    "fedyogi",
    "scaffold",
    "fednova",
    "feddyn",
    "moon",
    "qfedavg",
    "cyclic",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "geometric_median",
    "norm_bounding",
    "fltrust",
    "fedbn",
    "silobn",
    "ditto",
    "fedrep",
]
# whose rules count on w -= rate * gradient
NEED_SGD: tuple[AlgorithmName, ...] = ("scaffold", "fednova", "feddyn", "qfedavg")
# whose rules count on momentum that begins at zero in each round
NEED_FRESH_MOMENTUM: tuple[AlgorithmName, ...] = ("scaffold", "fednova")
# whose rules know no weight of a site, count on one that is the same in all rounds, or bear no site that tells one
NEED_FIXED_WEIGHTS: tuple[AlgorithmName, ...] = (
    "scaffold",
    "feddyn",
    "cyclic",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "geometric_median",
    "norm_bounding",
    "fltrust",
)
# that leave tensors of the network at the sites; the first two only those of batch normalisation
KEEP_TENSORS: tuple[AlgorithmName, ...] = ("fedbn", "silobn", "fedrep")
NEED_BATCH_NORM = KEEP_TENSORS[:2]


class Adaptive(Section):
    """`[federation.adaptive]`: the server optimisers fedadagrad, fedadam and fedyogi; symbols of Reddi et al. 2021."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.01  # eta
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # beta_1; theirs, but for fedadagrad: 0
    second_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99  # beta_2, theirs; not of fedadagrad
    epsilon: Annotated[float, Field(gt=0)] = 1e-3  # tau, theirs


class FedDyn(Section):
    """`[federation.feddyn]`."""

    weight: Annotated[float, Field(gt=0)] = 0.01  # alpha in Acar et al. 2021


class Moon(Section):
    """`[federation.moon]`."""

    weight: Annotated[float, Field(ge=0)] = 1.0  # mu in Li et al. 2021; theirs by task: 1, 5 or 10
    temperature: Annotated[float, Field(gt=0)] = 0.5  # tau, theirs


class QFedAvg(Section):
    """`[federation.qfedavg]`."""

    fairness: Annotated[float, Field(ge=0)] = 1.0  # q in Li et al. 2020b; 0: as fedavg


class Robust(Section):
    """`[federation.robust]`: rules that bear sites which send what they like."""

    hostile_sites: PositiveInt = 1  # f: trimmed_mean, krum, multi_krum bear so many
    iterations: PositiveInt = (
        1000  # geometric_median: Weiszfeld steps at most; tens are usual, more where a site is far off
    )
    norm_bound: Annotated[float, Field(gt=0)] | None = (
        None  # norm_bounding; None: the median norm of the round
    )


class Ditto(Section):
    """`[federation.ditto]`."""

    weight: Annotated[float, Field(ge=0)] = 0.1  # lambda in Li et al. 2021c; theirs are 0.05 to 2


class FedRep(Section):
    """`[federation.fedrep]`."""

    head_epochs: PositiveInt = 1  # tau in Collins et al. 2021, who take 10 for small networks


class FineTuning(Section):
    """`[federation.fine_tuning]`: after the run each site trains on from the chosen model, for itself."""

    epochs: Annotated[int, Field(ge=0)] = 0  # passes over its training cases; 0: off


class Federation(Section):
    """Who aggregates what, how often."""

    algorithm: AlgorithmName = "fedavg"
    proximal_weight: Annotated[float, Field(ge=0)] = 0.01  # mu in Li et al. 2020; fedprox only
    rounds: PositiveInt = 16
    local_epochs: PositiveInt = 1  # passes over a site's training cases a round
    participants: PositiveInt | None = None  # sites drawn each round; None: all
    quorum: PositiveInt | None = None  # None: all participants
    deadline_s: Annotated[float, Field(gt=0)] = 3600.0
    required_sites: tuple[Name, ...] = ()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    optimiser_memory: bool = False  # keep each site's optimiser state between rounds
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0  # Hsu et al. 2019
    server_learning_rate: Annotated[float, Field(gt=0)] = 1.0
    weights: Literal["cases", "voxels", "equal", "validation_gain"] = "cases"  # McMahan et al. 2017
    max_update_norm: Annotated[float, Field(gt=0)] | None = (
        None  # L2 over all tensors; None: finite is enough
    )
    adaptive: Adaptive = Adaptive()
    feddyn: FedDyn = FedDyn()
    moon: Moon = Moon()
    qfedavg: QFedAvg = QFedAvg()
    robust: Robust = Robust()
    ditto: Ditto = Ditto()
    fedrep: FedRep = FedRep()
    fine_tuning: FineTuning = FineTuning()

    @property
    def has_personal_models(self) -> bool:
        """Whether each site ends with a model of its own that is scored beside the global one."""
        return self.algorithm == "ditto" or self.fine_tuning.epochs > 0
