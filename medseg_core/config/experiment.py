"""A whole experiment: the sections together, and what must agree between them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medseg_core.config.federation import (
    KEEP_TENSORS,
    NEED_BATCH_NORM,
    NEED_FIXED_WEIGHTS,
    NEED_FRESH_MOMENTUM,
    NEED_SGD,
    Federation,
)
from medseg_core.config.section import PositiveInt, Section
from medseg_core.config.simulation import MISS_ROUNDS, Faults, Simulation
from medseg_core.config.task import Task
from medseg_core.config.training import Augmentation, Model, Training


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
    """How a site's update is written for the wire."""

    name: Literal["fp32", "fp16", "bf16", "int8", "ternary", "topk"] = "fp32"
    kept: Annotated[float, Field(gt=0, le=1)] = (
        0.08  # share of the numbers that topk sends: 4 % of float32's bytes
    )


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
        _check_patch_size(self.model, self.training)
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
        _check_rule(self.federation, self.training)
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


def _check_patch_size(model: Model, training: Training) -> None:
    """The patch survives the network's strides, with more than one voxel left. Raises ValueError."""
    multiple, patch = model.patch_multiple, training.patch_size
    if not any(length % multiple for length in patch) and max(patch) >= 2 * multiple:
        return
    nearest = [max(multiple, round(length / multiple) * multiple) for length in patch]
    if max(nearest) < 2 * multiple:
        nearest = [2 * multiple] * len(nearest)
    raise ValueError(
        f"[training] patch_size {list(patch)}: the network halves each axis until {multiple} voxels are one, so every "
        f"entry must be a multiple of {multiple}, and the largest at least {2 * multiple}. Use {nearest}, or fewer "
        "[model] channels"
    )


def _check_rule(federation: Federation, training: Training) -> None:
    """What the algorithm's rule counts on is so. Raises ValueError."""
    algorithm = federation.algorithm
    if algorithm in NEED_FRESH_MOMENTUM and federation.optimiser_memory and training.momentum:
        raise ValueError(
            f'[federation] algorithm = "{algorithm}" knows how far its steps lead where momentum begins at zero: set '
            "optimiser_memory = false, or [training] momentum = 0"
        )
    if algorithm in NEED_FIXED_WEIGHTS and federation.weights == "validation_gain":
        raise ValueError(
            f'[federation] weights = "validation_gain" has no place in the rule of algorithm = "{algorithm}": choose '
            "other weights, or another algorithm"
        )
    if algorithm == "scaffold" and federation.max_update_norm is not None:
        raise ValueError(
            '[federation] max_update_norm bounds updates, and algorithm = "scaffold" sends control variates besides, '
            "which it does not: leave it out, or choose another algorithm"
        )
    if (required := len(federation.required_sites)) > (federation.participants or required):
        raise ValueError(
            f"[federation] required_sites names {required} sites, and participants draws {federation.participants} in "
            "a round: raise participants, or require fewer"
        )
    if algorithm == "cyclic" and required:
        raise ValueError(
            '[federation] algorithm = "cyclic" asks one site in a round, so that none can be required in all: leave '
            "required_sites out"
        )


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
