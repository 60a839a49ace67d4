"""`[simulation]`: how one data set becomes virtual sites, and what is wrong with them."""

import difflib
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from medseg_core.config.section import Fraction, Name, PositiveFloat, PositiveInt, Section
from medseg_core.config.task import SiteLabels

PARTITIONS = ("natural", "iid", "quantity", "dirichlet")


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

    sites: Annotated[int, Field(ge=1, le=100_000)] = 4
    partition: str = "natural"  # natural, iid, quantity, dirichlet or attribute:NAME
    dirichlet_alpha: Annotated[float, Field(gt=0)] = 0.5  # Li et al. 2022 (NIID-Bench)
    baselines: tuple[Literal["local", "pooled"], ...] = ()
    folds: Annotated[int, Field(ge=2, le=20)] | None = None  # None: one split 65/10/25
    pooled: Tuned = Tuned()
    local: Tuned = Tuned()
    faults: Faults | None = None  # None: every site behaves
    site: dict[Name, SiteLabels] = {}  # noqa: RUF012 - pydantic copies it
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
