"""From a preprocessed case to a label map, on the network's grid or on the file's."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment
from medseg_core.imaging.geometry import resample_to
from medseg_core.learning.inference import inference_settings, predict_probabilities
from medseg_core.types import Volume

LabelMap = npt.NDArray[np.uint8]


def segment(network: nn.Module, case: PreprocessedCase, experiment: Experiment) -> LabelMap:
    """Label map `(*s)` on the case's preprocessed grid."""
    return _most_likely(_probabilities(network, case, experiment))


def segment_original(network: nn.Module, case: PreprocessedCase, experiment: Experiment) -> LabelMap:
    """Label map on the grid of the file: probabilities are resampled, then the likeliest label is taken.

    What preprocessing cut away is background.
    """
    probabilities = _probabilities(network, case, experiment)
    if case.geometry == case.original:
        return _most_likely(probabilities)
    return _most_likely(
        resample_to(Volume(probabilities, case.geometry), case.original, is_label=False).voxels
    )


def _probabilities(
    network: nn.Module, case: PreprocessedCase, experiment: Experiment
) -> npt.NDArray[np.float32]:
    device: torch.device = next(network.parameters()).device
    return predict_probabilities(network, case.image, inference_settings(experiment), device)


def _most_likely(probabilities: npt.NDArray[np.float32]) -> LabelMap:
    """The label with the largest probability; the lower one of equals, so background where all are 0."""
    return np.asarray(probabilities.argmax(axis=0), np.uint8)
