"""Faults of a site's images and labels: labels exchanged, intensities that drift."""

from dataclasses import replace

import numpy as np

from medseg_client.site_data import SiteData
from medseg_core.cohort.preprocess import PreprocessedCase


def with_labels_flipped(data: SiteData, n_classes: int) -> SiteData:
    """The site's training labels 1 -> 2 -> .. -> 1; with one label, label and background exchanged.

    Patches keep their centres, and validation and test their labels.
    """
    to = np.arange(256, dtype=np.uint8)
    to[:2] = (1, 0)
    if n_classes > 2:
        to[:n_classes] = (0, *range(2, n_classes), 1)
    return replace(data, train=tuple(replace(case, label=to[case.label]) for case in data.train))


def with_gamma(case: PreprocessedCase, gamma: float) -> PreprocessedCase:
    """Each channel's intensities, from its lowest at 0 to its highest at 1, to the power of gamma.

    Mean and deviation stay, as if the image had been normalised after its scanner had changed.
    """
    axes = tuple(range(1, case.image.ndim))
    image = case.image.astype(np.float64)
    low, high = image.min(axes, keepdims=True), image.max(axes, keepdims=True)
    unit = ((image - low) / np.maximum(high - low, 1e-8)) ** gamma
    standard = (unit - unit.mean(axes, keepdims=True)) / np.maximum(unit.std(axes, keepdims=True), 1e-8)
    changed = image.mean(axes, keepdims=True) + standard * image.std(axes, keepdims=True)
    return replace(case, image=changed.astype(np.float32))
