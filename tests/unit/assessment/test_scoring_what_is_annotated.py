"""Scores of a case leave out the labels that its site does not annotate, for validation and for the test."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import make_case, make_experiment
from torch import Tensor, nn

from medseg_core.assessment.evaluation import evaluate_test, validation_dice
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.cohort.reading import Reading
from medseg_core.config import SiteLabels

EXPERIMENT = make_experiment(task={"labels": {"left": 1, "right": 2}})
TRUTH = np.array([[1, 1, 2, 2], [0, 0, 0, 0]], np.uint8).repeat(8, 0).repeat(4, 1)  # (16, 16)
DRAWN = np.array([[1, 0, 2, 0], [0, 0, 0, 2]], np.uint8).repeat(8, 0).repeat(4, 1)
LEFT_DICE = 2 * 1 / (1 + 2)
RIGHT_DICE = 2 * 1 / (2 + 2)


class Drawing(nn.Module):
    """A network that always draws the same."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(torch.from_numpy(DRAWN).long(), 3).movedim(-1, 0)
        return 20.0 * one_hot.expand(len(images), *one_hot.shape)


def case_at_site(*not_annotated: str) -> PreprocessedCase:
    """A case of a site that does not annotate some labels."""
    task = EXPERIMENT.task.at_site(SiteLabels(not_annotated=not_annotated))
    hidden = np.isin(TRUTH, task.not_annotated)
    label = np.where(hidden, 0, TRUTH).astype(np.uint8)
    return replace(make_case("c", (16, 16)), label=label, reading=Reading(task))


@pytest.mark.parametrize(
    ("not_annotated", "expected"),
    [
        ((), {"left": LEFT_DICE, "right": RIGHT_DICE}),
        (("right",), {"left": LEFT_DICE}),
        (("left",), {"right": RIGHT_DICE}),
    ],
)
def test_only_annotated_labels_are_scored(not_annotated: tuple[str, ...], expected: dict[str, float]) -> None:
    case, network = case_at_site(*not_annotated), Drawing()

    (scores,) = evaluate_test(network, [case], EXPERIMENT).cases

    assert {label: own.dice for label, own in scores.labels.items()} == pytest.approx(expected)
    mean = sum(expected.values()) / len(expected)
    assert scores.dice == pytest.approx(mean)
    assert validation_dice(network, [case], EXPERIMENT) == pytest.approx(mean)
