"""How sure a prediction is: the same case seen several times, by one network or by several.

A network sees a case as it is, mirrored along the axes that training mirrored, and with its contrast at both ends of
the range that training drew from. Each pair of a network and a view is a member. From the members' class probabilities
p_m at a voxel come, in nats,

    entropy       H(mean of p_m)                     predictive entropy: how unsure they are together
    disagreement  H(mean of p_m) - mean of H(p_m)    mutual information: how much of that is between them

and from their label maps the case's score: 1 - the mean Dice of two members, over pairs and labels. It is 0 where all
members draw the same outline and nears 1 where they share nothing.

Source: Gal 2016 (entropy, mutual information); Wang et al. 2019 (test-time augmentation); Roy et al. 2019 (Dice between
samples as a measure of a whole structure).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32, UInt8
from torch import nn

from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Augmentation, Experiment
from medseg_core.imaging.geometry import resample_to
from medseg_core.learning.inference import inference_settings, predict_each
from medseg_core.types import Volume

Image = npt.NDArray[np.float32]
CONTRASTS = (0.75, 1.25)  # factors about 0, the ends of what training draws (augmentation.CONTRAST)


@dataclass(frozen=True)
class View:
    """One way to see an image, and the way back for what is predicted of it; both take channels first."""

    name: str
    see: Callable[[Image], Image]
    back: Callable[[Image], Image]


@dataclass(frozen=True)
class Uncertainty:
    """What the members say of one case, on the preprocessed grid or on that of its file."""

    entropy: Float32[np.ndarray, "*s"]  # nats: 0 to ln(classes)
    disagreement: Float32[np.ndarray, "*s"]  # nats: 0 to the entropy
    score: float  # of the case: 0 to 1


def views_of(experiment: Experiment) -> tuple[View, ...]:
    """The views that a network of this experiment was trained to cope with; the first is the image as it is.

    Axes that training did not mirror are not: there a mirrored image is one of a patient with the sides swapped.
    """
    flips = (experiment.training.augmentation or Augmentation()).flip
    mirrored = [_flip(axis + 1) for axis, is_trained in enumerate(flips) if is_trained]
    return (View("as it is", _same, _same), *mirrored, *(_contrast(factor) for factor in CONTRASTS))


def uncertainty_of(
    networks: Sequence[nn.Module], case: PreprocessedCase, experiment: Experiment
) -> Uncertainty:
    """What every network in every view makes of the case. Deterministic on a CPU; a few members in memory at a time."""
    settings, views = replace(inference_settings(experiment), mirror=False), views_of(experiment)
    seen = [view.see(case.image) for view in views]
    mean = np.zeros((experiment.task.n_classes, *case.image.shape[1:]), np.float32)
    own_entropy = np.zeros(case.image.shape[1:], np.float32)
    label_maps = []
    for network in networks:
        device: torch.device = next(network.parameters()).device
        for place, predicted in predict_each(network, seen, settings, device):
            probabilities = views[place].back(predicted)
            mean += probabilities
            own_entropy += entropy_of(probabilities)
            label_maps.append(np.asarray(probabilities.argmax(axis=0), np.uint8))
    mean /= len(label_maps)
    entropy = entropy_of(mean)
    disagreement = np.clip(entropy - own_entropy / len(label_maps), 0, None)  # below 0 by rounding alone
    return Uncertainty(entropy, disagreement, disagreement_score(label_maps, experiment.task.n_classes))


def on_file(found: Uncertainty, case: PreprocessedCase) -> Uncertainty:
    """The maps on the grid of the case's file; what preprocessing cut away is 0."""
    if case.geometry == case.original:
        return found
    maps = Volume(np.stack([found.entropy, found.disagreement]), case.geometry)
    entropy, disagreement = resample_to(maps, case.original, is_label=False).voxels
    return Uncertainty(entropy, disagreement, found.score)


def entropy_of(probabilities: Float32[np.ndarray, "k *s"]) -> Float32[np.ndarray, "*s"]:
    """Shannon entropy over classes, in nats."""
    total = np.zeros(probabilities.shape[1:], np.float32)
    for p in probabilities:  # one class at a time: a whole scan's probabilities are large
        total -= p * np.log(np.maximum(p, np.finfo(np.float32).tiny))
    return total


def disagreement_score(label_maps: Sequence[UInt8[np.ndarray, "*s"]], n_classes: int) -> float:
    """1 - mean Dice of two label maps, over all pairs and the labels that any map has; 0 where none has any."""
    flat = [labels.ravel() for labels in label_maps]
    sizes = np.array([np.bincount(labels, minlength=n_classes) for labels in flat])
    seen = [label for label in range(1, n_classes) if sizes[:, label].any()]
    if not seen or len(flat) < 2:
        return 0.0
    dice = []
    for a, b in itertools.combinations(range(len(flat)), 2):
        shared = np.bincount(flat[a][flat[a] == flat[b]], minlength=n_classes)
        total = sizes[a] + sizes[b]
        dice += [2 * shared[n] / total[n] if total[n] else 1.0 for n in seen]
    return float(1 - np.mean(dice))


def _same(image: Image) -> Image:
    return image


def _flip(axis: int) -> View:
    def flipped(image: Image) -> Image:
        return np.flip(image, axis)

    return View(f"mirrored along {axis - 1}", flipped, flipped)


def _contrast(factor: float) -> View:
    return View(f"contrast {factor:g}", lambda image: image * np.float32(factor), _same)
