"""The experiment file: TOML in, strict frozen models out. Read once at the edge of the process and passed down.

Every default has its origin beside it. Units stand in the names. Unknown keys are refused with the nearest known one.
"""

import difflib
import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medseg_core.errors import ExperimentFileError

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Size = Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=3)]


class Section(BaseModel):
    """A strict, frozen part of an experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_Document = TypeVar("_Document", bound=Section)


class Channel(Section):
    """One input channel and how its intensities are normalised."""

    name: Name
    modality: Literal["CT", "MR", "PET", "XR", "US", "fundus", "other"] = "other"
    normalisation: Literal["zscore", "window", "range"] = "zscore"  # nnU-Net's for all but CT
    window: tuple[float, float] | None = None  # (low, high) in the units of the file: HU for CT
    clahe: bool = False  # contrast-limited adaptive histogram equalisation, before normalisation
    optional: bool = False  # cases without it are taken: zeros after normalisation

    @model_validator(mode="after")
    def _window_when_asked(self) -> "Channel":
        if (self.normalisation == "window") != (self.window is not None):
            raise ValueError('window = [low, high] and normalisation = "window" go together')
        if self.window is not None and self.window[0] >= self.window[1]:
            raise ValueError("window must rise: [low, high]")
        return self


PARTITIONS = ("natural", "iid", "quantity", "dirichlet")
LabelValues = int | tuple[int, ...] | Literal["nonzero"]


def values_of(wanted: LabelValues) -> tuple[int, ...]:
    """The values in label files that a label names; none for "nonzero"."""
    return (wanted,) if isinstance(wanted, int) else tuple(v for v in wanted if isinstance(v, int))


class SiteLabels(Section):
    """What one site's label files hold, where that is not what [task] says.

    `[simulation.site.NAME]` of an experiment, `[labels.TASK]` of a hospital's site.toml.
    """

    labels: dict[Name, LabelValues] = {}  # of those not named here: the task's
    background: tuple[int, ...] = ()  # values that are none of the task's labels
    not_annotated: tuple[Name, ...] = ()  # labels that may be there, as background


class Task(Section):
    """The contract between the data and the network: channels in, labels out, on which grid."""

    name: Name
    spatial_dims: Literal[2, 3]
    channels: Annotated[tuple[Channel, ...], Field(min_length=1)]
    labels: Annotated[
        dict[Name, LabelValues], Field(min_length=1, max_length=200)
    ]  # foreground; in order 1, 2, ..
    background: tuple[int, ...] = ()  # values in label files that are no label, beside 0
    ignore_value: int | None = None  # value in label files for "not annotated here"
    spacing_mm: tuple[Annotated[float, Field(gt=0)], ...] | None = None  # None: the spacing of each file
    longest_side_px: PositiveInt | None = None  # for images without physical spacing: scaled to this size
    orientation: Annotated[str, Field(pattern="^[RLAPSI]{3}$")] = "LPS"  # DICOM's; 3D only
    foreground_crop: bool = False  # cut empty (zero) borders away
    allow_empty_label: bool = True
    licence: str | None = None  # of the data, for the model card

    @model_validator(mode="after")
    def _dimensions_agree(self) -> "Task":
        if self.spacing_mm is not None and len(self.spacing_mm) != self.spatial_dims:
            raise ValueError(f"spacing_mm needs {self.spatial_dims} entries, got {len(self.spacing_mm)}")
        if self.spacing_mm is not None and self.longest_side_px is not None:
            raise ValueError("spacing_mm and longest_side_px exclude each other")
        if len({c.name for c in self.channels}) != len(self.channels):
            raise ValueError("two channels have the same name")
        return self

    @property
    def n_classes(self) -> int:
        """Foreground labels and background."""
        return len(self.labels) + 1

    @property
    def optional_channels(self) -> tuple[int, ...]:
        """Numbers of the channels that a case need not have."""
        return tuple(n for n, channel in enumerate(self.channels) if channel.optional)

    @property
    def not_annotated(self) -> tuple[int, ...]:
        """Classes that no value in the label files stands for: of a task `at_site`."""
        return tuple(n for n, wanted in enumerate(self.labels.values(), start=1) if wanted == ())

    def at_site(self, own: SiteLabels) -> "Task":
        """The task in the values of one site's label files: a label that is not annotated there has none.

        The task's values of such a label are background there, unless the site uses them for another one.
        Raises ValueError for labels that the task does not have and for values that would be two things.
        """
        if own == SiteLabels():
            return self
        for name in (*own.labels, *own.not_annotated):
            if name not in self.labels:
                raise ValueError(
                    f"task {self.name} has no label {name!r}; known are {', '.join(self.labels)}"
                )
            if own.labels.get(name) == ():
                raise ValueError(f"label {name!r} has no value; name it in not_annotated instead")
            if name in own.labels and name in own.not_annotated:
                raise ValueError(
                    f"label {name!r} has values and is not annotated; take it out of one of them"
                )
        if set(own.not_annotated) == set(self.labels):
            raise ValueError("not_annotated names every label of the task; a site needs one to train on")
        labels = {
            name: () if name in own.not_annotated else own.labels.get(name, wanted)
            for name, wanted in self.labels.items()
        }
        meanings = [(v, name) for name, wanted in labels.items() for v in values_of(wanted)]
        meanings += [(v, "background") for v in own.background]
        for value, name in meanings:
            if other := next((n for v, n in meanings if v == value and n != name), None):
                raise ValueError(
                    f"value {value} would be both {name} and {other}; give every label its values"
                )
        unseen = [v for name in own.not_annotated for v in values_of(self.labels[name])]
        named = {value for value, _ in meanings} - set(own.background)
        background = sorted({*self.background, *own.background, *unseen} - named)
        return self.model_copy(update={"labels": labels, "background": tuple(background)})


NetworkName = Literal["unet", "dynunet", "attention_unet", "segresnet", "cnn3d"]
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
# that leave tensors of the network at the sites; the first two only those of batch normalisation
KEEP_TENSORS: tuple[AlgorithmName, ...] = ("fedbn", "silobn", "fedrep")
NEED_BATCH_NORM = KEEP_TENSORS[:2]


class Model(Section):
    """The network."""

    name: NetworkName = "unet"
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=7)] = (
        16,
        32,
        64,
        128,
    )  # MONAI tutorials
    residual_units: Annotated[int, Field(ge=0, le=4)] = 2  # Kerfoot et al. 2018
    normalisation: Literal["instance", "group", "batch"] = (
        "instance"  # nnU-Net; batch statistics differ by site
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Augmentation(Section):
    """Probability of each transform for a patch; ranges are nnU-Net's (Isensee et al. 2021, supplement 2)."""

    flip: tuple[bool, ...] = ()  # axes that may be mirrored; anatomy that has a side is not
    rotation: Fraction = 0.2
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 30.0
    scaling: Fraction = 0.2
    scaling_range: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.4)
    elastic: Fraction = 0.0  # off in nnU-Net v2
    gamma: Fraction = 0.3
    contrast: Fraction = 0.15
    brightness: Fraction = 0.15
    noise: Fraction = 0.1
    blur: Fraction = 0.1
    low_resolution: Fraction = 0.1
    channel_dropout: Fraction = 0.0  # of each optional channel, never of all: as if the case had it not


class Training(Section):
    """Local training at a site."""

    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # SGD only
    schedule: Literal["poly", "cosine", "constant"] = "poly"  # nnU-Net: (1 - t)^0.9 over the whole run
    batch_size: PositiveInt = 2  # nnU-Net's smallest
    patch_size: Size
    foreground_fraction: Fraction = 0.33  # nnU-Net: a third of the patches centred on foreground
    loss: Literal["dice", "dice_ce", "dice_focal", "tversky", "generalised_dice"] = "dice_ce"  # nnU-Net
    gradient_clip_norm: Annotated[float, Field(ge=0)] = 12.0  # nnU-Net; 0: off
    mixed_precision: Literal["auto", "off", "bf16"] = "auto"  # auto: bf16 on CUDA devices that have it
    cpu_threads: PositiveInt = 2  # part of the experiment: results depend on it
    augmentation: Augmentation | Literal[False] = Augmentation()


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
    iterations: PositiveInt = 10  # geometric_median: Weiszfeld steps
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


class Evaluation(Section):
    """How the global model is scored."""

    every_rounds: PositiveInt = 1
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5  # of neighbouring windows; nnU-Net
    mirror: bool = False  # average over flipped copies of the image (test-time augmentation)
    surface_tolerance_mm: Annotated[float, Field(gt=0)] = 1.0
    bootstrap_samples: PositiveInt = 2000
    server_data: str | None = (
        None  # folder or manifest of the coordinator's own cases; scored, and trained on by fltrust alone
    )


class Codec(Section):
    """How an update is written for the wire."""

    name: Literal["fp32"] = "fp32"


class Tuned(Section):
    """A baseline's own best settings, found on validation with the federation's tuning budget."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    batch_size: PositiveInt | None = None


FaultKind = Literal[
    "label_flip",
    "sign_flip",
    "scale",
    "noise",
    "nan",
    "backdoor",
    "free_rider",
    "drop_out",
    "straggler",
    "drift",
]
MISS_ROUNDS: tuple[FaultKind, ...] = (
    "nan",
    "drop_out",
    "straggler",
)  # a site with it does not always contribute


class Faults(Section):
    """`[simulation.faults]`: virtual sites that misbehave. A real federation refuses an experiment that has it."""

    kind: FaultKind
    sites: Annotated[tuple[Name, ...], Field(min_length=1)] | PositiveInt = (
        1  # whom, or how many: drawn by seed
    )
    scale: PositiveFloat = 10.0  # scale: the update times this; Blanchard et al. 2017 call it amplified
    noise_norms: PositiveFloat = 3.0  # noise: its L2 norm, in norms of the update
    probability: Fraction = 0.5  # drop_out, straggler: of missing a round
    gamma: PositiveFloat = 2.0  # drift: exponent of the intensities in the last round, 1 in the first
    trigger_voxels: PositiveInt = 4  # backdoor: side of the bright block; Gu et al. 2019 use 3 x 3 pixels
    poisoned: Fraction = 0.5  # backdoor: share of the training cases with the trigger; 0: only measured
    target_label: Name | None = None  # backdoor: what structures near the trigger become; None: background


ScannerEffect = Literal["gamma", "bias_field", "resolution", "noise", "intensity_scale"]


class ScannerEffects(Section):
    """`[simulation.scanner]`: images as if each site had a scanner of its own."""

    strength: Fraction = 0.0  # 1: as far apart as the phantoms' scanners
    effects: tuple[ScannerEffect, ...] = get_args(ScannerEffect)


class Simulation(Section):
    """How one data set becomes virtual sites."""

    sites: PositiveInt = 4
    partition: str = "natural"  # natural, iid, quantity, dirichlet or attribute:NAME
    dirichlet_alpha: Annotated[float, Field(gt=0)] = 0.5  # Li et al. 2022 (NIID-Bench)
    baselines: tuple[Literal["local", "pooled"], ...] = ()
    folds: Annotated[int, Field(ge=2, le=20)] | None = None  # None: one split 65/10/25
    pooled: Tuned = Tuned()
    local: Tuned = Tuned()
    faults: Faults | None = None  # None: every site behaves
    site: dict[Name, SiteLabels] = {}
    score_all_labels: bool = False  # of test cases, also those that their site does not annotate
    scanner: ScannerEffects = ScannerEffects()

    def labels_at(self, site: str) -> SiteLabels:
        """What the label files of a virtual site hold."""
        return self.site.get(site, SiteLabels())

    @field_validator("partition")
    @classmethod
    def _partition_is_known(cls, partition: str) -> str:
        if partition in PARTITIONS or (partition.startswith("attribute:") and partition != "attribute:"):
            return partition
        near = difflib.get_close_matches(partition, PARTITIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"must be {', '.join(PARTITIONS)} or attribute:NAME{hint}")


class Experiment(Section):
    """A whole experiment, resolved."""

    task: Task
    model: Model = Model()
    training: Training
    federation: Federation = Federation()
    evaluation: Evaluation = Evaluation()
    codec: Codec = Codec()
    simulation: Simulation = Simulation()

    @model_validator(mode="after")
    def _sections_agree(self) -> "Experiment":
        dims = self.task.spatial_dims
        if len(self.training.patch_size) != dims:
            raise ValueError(f"[training] patch_size needs {dims} entries, as [task] spatial_dims says")
        augmentation = self.training.augmentation or Augmentation()
        if augmentation.flip and len(augmentation.flip) != dims:
            raise ValueError(f"[training.augmentation] flip needs {dims} entries, or none")
        if augmentation.channel_dropout and not self.task.optional_channels:
            raise ValueError(
                "[training.augmentation] channel_dropout drops channels that may be missing, and none may: write "
                "optional = true for one in [[task.channels]], or leave channel_dropout out"
            )
        if bare := [name for name, wanted in self.task.labels.items() if wanted == ()]:
            raise ValueError(
                f"[task] labels: {bare[0]} has no value; not_annotated of a site says that it has none"
            )
        for site, own in self.simulation.site.items():
            try:
                self.task.at_site(own)
            except ValueError as error:
                raise ValueError(f"[simulation.site.{site}] {error}") from None
        algorithm = self.federation.algorithm
        if algorithm in NEED_SGD and self.training.optimiser != "sgd":
            raise ValueError(
                f'[federation] algorithm = "{algorithm}" counts on steps of rate * gradient, which adamw does not '
                'take: it needs [training] optimiser = "sgd", with a learning_rate for it'
            )
        if algorithm == "fltrust" and self.evaluation.server_data is None:
            raise ValueError(
                '[federation] algorithm = "fltrust" compares sites with an update that the server trains itself: it '
                "needs labelled cases of the coordinator in [evaluation] server_data"
            )
        if (faults := self.simulation.faults) is not None:
            _check_faults(faults, self)
        if algorithm in NEED_BATCH_NORM and self.model.normalisation != "batch":
            raise ValueError(
                f'[federation] algorithm = "{algorithm}" leaves batch normalisation at the sites, and this network has '
                f'none: it needs [model] normalisation = "batch", got "{self.model.normalisation}"'
            )
        if algorithm in KEEP_TENSORS and self.evaluation.server_data is not None:
            raise ValueError(
                f'[evaluation] server_data: with [federation] algorithm = "{algorithm}" the coordinator has no whole '
                "model to score, since part of it stays at the sites. Leave server_data out"
            )
        if algorithm == "ditto" and self.federation.fine_tuning.epochs:
            raise ValueError(
                '[federation.fine_tuning] epochs: with algorithm = "ditto" each site has a model of its own already. '
                "Set epochs = 0, or choose another algorithm"
            )
        if self.model.name == "cnn3d" and dims != 3:
            raise ValueError('[model] name = "cnn3d" needs [task] spatial_dims = 3')
        return self


def _check_faults(faults: Faults, experiment: Experiment) -> None:
    """The faults fit the rest of the experiment. Raises ValueError."""
    if faults.kind in MISS_ROUNDS and experiment.federation.quorum is None:
        raise ValueError(
            f'[simulation.faults] kind = "{faults.kind}" keeps sites out of rounds, and a round needs all of them '
            "unless [federation] quorum says how many are enough: set quorum, at most the number of the other sites"
        )
    if faults.kind == "backdoor" and experiment.federation.algorithm in KEEP_TENSORS:
        raise ValueError(
            '[simulation.faults] kind = "backdoor" is measured on the whole shared model, and part of it stays at the '
            f'sites with [federation] algorithm = "{experiment.federation.algorithm}": choose another algorithm'
        )
    labels = experiment.task.labels
    if faults.target_label is not None and faults.target_label not in labels:
        known = ", ".join(labels)
        raise ValueError(
            f"[simulation.faults] target_label must be one of [task] labels: {known}; none: background"
        )


def read_experiment(path: Path) -> Experiment:
    """The experiment in a TOML file. Raises ExperimentFileError with every fault found."""
    return parse_experiment(read_toml(path), source=str(path))


def parse_experiment(document: dict[str, Any], *, source: str) -> Experiment:
    """The experiment in a parsed document. Raises ExperimentFileError naming `source`."""
    return parse_document(Experiment, document, source=source)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises ExperimentFileError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentFileError(
            str(path), ["no such file. Give an experiment file, or --preset NAME"]
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ExperimentFileError(str(path), [f"not readable as TOML ({error})"]) from None


def parse_document(kind: type[_Document], document: dict[str, Any], *, source: str) -> _Document:
    """A parsed document as settings of `kind`. Raises ExperimentFileError naming `source`, with every fault found."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise ExperimentFileError(source, [_sentence(kind, fault) for fault in error.errors()]) from None


def experiment_toml(experiment: Experiment) -> str:
    """The resolved experiment as TOML; `parse` of it gives the experiment again."""
    return tomli_w.dumps(experiment.model_dump(mode="json", exclude_none=True))


def experiment_sha256(experiment: Experiment) -> str:
    """Identity of an experiment: what a hospital approves and every envelope names."""
    return hashlib.sha256(experiment_toml(experiment).encode()).hexdigest()


def _sentence(kind: type[Section], fault: Any) -> str:
    """One pydantic fault as a sentence with section, key and remedy."""
    where = [str(part) for part in fault["loc"]]
    section, key = ".".join(where[:-1]), where[-1] if where else ""
    if fault["type"] != "extra_forbidden":
        return (
            f"[{section}] {key}: {fault['msg'].removeprefix('Value error, ')}, got {fault['input']!r:.80}"
            if where
            else (fault["msg"].removeprefix("Value error, "))
        )
    known = _keys_at(kind, where[:-1])
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"[{section}] has no key {key!r}; {hint}" if section else f"there is no section [{key}]; {hint}"


def _keys_at(kind: type[Section], location: list[str]) -> list[str]:
    """Known keys of the section at a location."""
    model: Any = kind
    for part in location:
        annotation = (
            model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else model
        )
        model = _section_in(annotation) or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> Any:
    """The Section class inside an annotation such as `Augmentation | None` or `tuple[Channel, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _section_in(part))), None)
