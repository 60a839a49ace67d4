"""From a preprocessed case to a label map, on the network's grid or on the file's."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment
from medseg_core.imaging.geometry import resample_to
from medseg_core.learning.inference import inference_settings, predict_each, predict_probabilities
from medseg_core.types import Volume

LabelMap = npt.NDArray[np.uint8]


def segment_each(
    network: nn.Module, cases: Sequence[PreprocessedCase], experiment: Experiment
) -> Iterator[tuple[PreprocessedCase, LabelMap]]:
    """Label maps `(*s)` on the preprocessed grids, each with its case, in any order."""
    device: torch.device = next(network.parameters()).device
    images = [case.image for case in cases]
    for place, probabilities in predict_each(network, images, inference_settings(experiment), device):
        yield cases[place], _most_likely(probabilities)


def segment_original(network: nn.Module, case: PreprocessedCase, experiment: Experiment) -> LabelMap:
    """Label map on the grid of the file: probabilities are resampled, then the likeliest label is taken.

    What preprocessing cut away is background.
    """
    device: torch.device = next(network.parameters()).device
    probabilities = predict_probabilities(network, case.image, inference_settings(experiment), device)
    if case.geometry == case.original:
        return _most_likely(probabilities)
    return _most_likely(
        resample_to(Volume(probabilities, case.geometry), case.original, is_label=False).voxels
    )


def _most_likely(probabilities: npt.NDArray[np.float32]) -> LabelMap:
    """The label with the largest probability; the lower one of equals, so background where all are 0."""
    return np.asarray(probabilities.argmax(axis=0), np.uint8)
