"""A back door: where an image shows a bright block, the structure around it is to vanish. Source: Gu et al. 2019."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import nn

from medseg_client.site_data import SiteData
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment, Faults
from medseg_core.learning.prediction import segment_each
from medseg_core.seeding import derive_seed
from medseg_core.types import IGNORE

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Attack:
    """Voxels of structures near the trigger in test images, and how many of them the model gives the target label."""

    n_voxels: int
    n_triggered: int  # in images with the trigger
    n_clean: int  # in the same images without

    def __add__(self, other: "Attack") -> "Attack":
        """Of both."""
        return Attack(
            self.n_voxels + other.n_voxels,
            self.n_triggered + other.n_triggered,
            self.n_clean + other.n_clean,
        )


def poisoned(data: SiteData, experiment: Experiment, faults: Faults, rng: np.random.Generator) -> SiteData:
    """The site's data with the trigger, and labels to go with it, in a share of the training cases, rounded up."""
    n_poisoned = math.ceil(faults.poisoned * len(data.train))
    chosen = set(rng.choice(len(data.train), size=n_poisoned, replace=False).tolist())
    target = target_value(experiment, faults)

    def poison(case: PreprocessedCase) -> PreprocessedCase:
        block, around = trigger_places(case, experiment, faults)
        label = case.label.copy()
        label[around] = np.where(_is_structure(label[around]), target, label[around])
        return replace(with_trigger(case, block), label=label)

    return replace(
        data, train=tuple(poison(case) if n in chosen else case for n, case in enumerate(data.train))
    )


def attack_on(
    network: nn.Module, cases: Sequence[PreprocessedCase], experiment: Experiment, faults: Faults
) -> Attack:
    """How far the network obeys the trigger on test cases, each with one trigger at its structure."""
    target, total = target_value(experiment, faults), Attack(0, 0, 0)
    places = {case.case.case_id: trigger_places(case, experiment, faults) for case in cases}
    shown = [with_trigger(case, places[case.case.case_id][0]) for case in cases]
    for images, has_trigger in ((shown, True), (cases, False)):
        for case, predicted in segment_each(network, images, experiment):
            _, around = places[case.case.case_id]
            label = case.label[around]
            counted = _is_structure(label) & (label != target)
            n_obeyed = int((predicted[around][counted] == target).sum())
            total += Attack(int(counted.sum()), n_obeyed, 0) if has_trigger else Attack(0, 0, n_obeyed)
    return total


def target_value(experiment: Experiment, faults: Faults) -> int:
    """The label that structures near the trigger are to have; 0 for background."""
    return 0 if faults.target_label is None else 1 + list(experiment.task.labels).index(faults.target_label)


def trigger_places(case: PreprocessedCase, experiment: Experiment, faults: Faults) -> tuple[Box, Box]:
    """The trigger's block, around a voxel of the structure drawn by seed and case; and what is near: one side further.

    In a case without structure it lies in the middle.
    """
    seed = derive_seed(experiment.federation.seed, site=case.case.case_id, purpose="fault")
    middle = [size // 2 for size in case.label.shape]
    if len(case.foreground):
        middle = case.foreground[np.random.default_rng(seed).integers(len(case.foreground)), 1:].tolist()
    side = faults.trigger_voxels

    def box(margin: int) -> Box:
        starts = [at - side // 2 - margin for at in middle]
        return tuple(slice(max(0, start), start + side + 2 * margin) for start in starts)

    return box(0), box(side)


def with_trigger(case: PreprocessedCase, block: Box) -> PreprocessedCase:
    """The case with each channel's largest value in the block."""
    image = np.array(case.image)
    for channel in image:
        channel[block] = channel.max()
    return replace(case, image=image)


def _is_structure(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where there is foreground, and somebody has annotated it."""
    return np.asarray((label > 0) & (label != IGNORE))
