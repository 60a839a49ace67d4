"""Scores of one model on a site's cases: quick Dice for validation, everything for the test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from medseg_core.assessment.metrics import OPTIONAL_METRICS, score_case
from medseg_core.assessment.pictured_slice import picture, picture_file
from medseg_core.assessment.scores import CaseScores, summarise
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.cohort.reading import Reading
from medseg_core.config import Experiment
from medseg_core.learning.prediction import segment_each, segment_original
from medseg_core.types import IGNORE, LoadedCase

LabelMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TestResult:
    """Test scores of one model at one site. Stays at the site; what may leave is for the caller to choose."""

    cases: tuple[CaseScores, ...]
    overlays: dict[
        str, bytes
    ]  # case_id -> npz of image, truth, prediction, aspect: best, median and worst case


def validation_dice(
    network: nn.Module, cases: Sequence[PreprocessedCase], experiment: Experiment
) -> float | None:
    """Mean Dice over cases of the mean over annotated labels, on the preprocessed grid; None without cases."""
    n_classes = experiment.task.n_classes
    scores = [
        _mean_dice(p, case.label, n_classes, not_annotated=case.not_annotated)
        for case, p in segment_each(network, cases, experiment)
    ]
    return float(np.mean(scores)) if scores else None


def evaluate_test(
    network: nn.Module, cases: Sequence[PreprocessedCase], experiment: Experiment
) -> TestResult:
    """Every metric of every case on the grid of its file, and pictures of three cases."""
    scores, pictures = [], {}
    for case in cases:
        prediction = segment_original(network, case, experiment)
        image, truth = original_arrays(case, experiment)
        scores.append(score_prediction(case, prediction, truth, experiment))
        channel = next(n for n in range(len(image)) if n not in case.case.missing)
        spacing = case.original.spacing
        pictures[case.case.case_id] = picture(image, truth, prediction, spacing, channel=channel)
    ranked = sorted(scores, key=lambda s: (-s.dice, s.case_id))
    shown = {ranked[i].case_id for i in (0, len(ranked) // 2, len(ranked) - 1)} if ranked else set()
    return TestResult(tuple(scores), {name: picture_file(p) for name, p in pictures.items() if name in shown})


def site_figures(cases: Sequence[CaseScores], experiment: Experiment) -> dict[str, float | None]:
    """What a site tells of its test scores: means, the interval of its Dice, means of each label (`label/metric`).

    Where a metric is not defined for every case, `metric_cases` tells how many cases define it.
    """
    block = summarise(cases, seed=experiment.federation.seed, samples=experiment.evaluation.bootstrap_samples)
    (own,) = block["sites"].values()
    told = dict(own)
    for name in OPTIONAL_METRICS:
        told[f"{name}_cases"] = sum(case.mean[name] is not None for case in cases)
    for label, means in block["labels"].items():
        told |= {f"{label}/{name}": value for name, value in means.items()}
        for name in OPTIONAL_METRICS:
            defined = sum(getattr(case.labels[label], name) is not None for case in cases)
            told[f"{label}/{name}_cases"] = defined
    return {name: None if value is None else float(value) for name, value in told.items()}


def score_prediction(
    case: PreprocessedCase, prediction: LabelMap, truth: LabelMap, experiment: Experiment
) -> CaseScores:
    """Scores of a label map on the grid of the case's file, for the labels that are annotated in the case."""
    names = tuple(experiment.task.labels)
    labels = score_case(
        prediction,
        truth,
        labels=names,
        spacing_mm=case.original.spacing_mm,
        tolerance_mm=experiment.evaluation.surface_tolerance_mm,
    )
    annotated = {
        label: labels[label] for n, label in enumerate(names, start=1) if n not in case.not_annotated
    }
    return CaseScores(case.case.case_id, case.case.patient_id, case.case.site, annotated)


def original_arrays(
    case: PreprocessedCase, experiment: Experiment
) -> tuple[npt.NDArray[np.float32], LabelMap]:
    """Image `(c, *s)` and mapped label `(*s)` on the grid of the file."""
    if case.geometry == case.original:
        return case.image, case.label
    loaded: LoadedCase = (case.reading or Reading(experiment.task)).load(case.case)
    assert loaded.label is not None, case.case.case_id
    return loaded.image.voxels, loaded.label


def _mean_dice(
    prediction: LabelMap, truth: LabelMap, n_classes: int, *, not_annotated: Sequence[int] = ()
) -> float:
    """Dice, mean over annotated foreground labels; 1 where a label is in neither."""
    counted = truth != IGNORE
    pairs = np.bincount(
        truth[counted].astype(np.int64) * n_classes + prediction[counted], minlength=n_classes**2
    )
    table = pairs.reshape(n_classes, n_classes)  # true label, predicted label
    sizes = table.sum(0) + table.sum(1)
    dice = np.where(sizes > 0, 2 * np.diag(table) / np.maximum(sizes, 1), 1.0)
    return float(np.delete(dice, [0, *not_annotated]).mean())
