"""The experiment file: TOML in, strict frozen models out. Read once at the edge of the process and passed down.

Every default has its origin beside it. Units stand in the names. Unknown keys are refused with the nearest known one.
"""

from medseg_core.config.experiment import Codec, Evaluation, Experiment
from medseg_core.config.federation import (
    KEEP_TENSORS,
    NEED_BATCH_NORM,
    NEED_FIXED_WEIGHTS,
    NEED_FRESH_MOMENTUM,
    NEED_SGD,
    AlgorithmName,
    Federation,
    FineTuning,
)
from medseg_core.config.reading import (
    experiment_sha256,
    experiment_toml,
    parse_document,
    parse_experiment,
    read_experiment,
    read_toml,
)
from medseg_core.config.section import Fraction, Name, PositiveFloat, PositiveInt, Section, Size
from medseg_core.config.series import SeriesRules
from medseg_core.config.simulation import PARTITIONS, FaultKind, Faults, ScannerEffects, Simulation, Tuned
from medseg_core.config.task import Channel, LabelValues, SiteLabels, Task, values_of
from medseg_core.config.training import Augmentation, Model, NetworkName, Training

__all__ = [
    "AlgorithmName",
    "Augmentation",
    "Channel",
    "Codec",
    "Evaluation",
    "Experiment",
    "FaultKind",
    "Faults",
    "Federation",
    "FineTuning",
    "Fraction",
    "KEEP_TENSORS",
    "LabelValues",
    "Model",
    "NEED_BATCH_NORM",
    "NEED_FIXED_WEIGHTS",
    "NEED_FRESH_MOMENTUM",
    "NEED_SGD",
    "Name",
    "NetworkName",
    "PARTITIONS",
    "PositiveFloat",
    "PositiveInt",
    "ScannerEffects",
    "Section",
    "SeriesRules",
    "Simulation",
    "SiteLabels",
    "Size",
    "Task",
    "Training",
    "Tuned",
    "experiment_sha256",
    "experiment_toml",
    "parse_document",
    "parse_experiment",
    "read_experiment",
    "read_toml",
    "values_of",
]
