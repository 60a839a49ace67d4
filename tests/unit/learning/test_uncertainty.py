"""How sure a prediction is: entropy, disagreement and score of members, by hand."""

import math

import numpy as np
import pytest
import torch
from builders import make_case, make_experiment
from torch import Tensor, nn

from medseg_core.learning.uncertainty import disagreement_score, entropy_of, uncertainty_of, views_of

NO_VIEWS_THAT_DIFFER = {"training": {"augmentation": False}}


class Certain(nn.Module):
    """Gives class 1 this probability where the image is above 0, else background."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(math.log(probability / (1 - probability))))

    def forward(self, images: Tensor) -> Tensor:  # (b, 1, *s) -> (b, 2, *s)
        foreground = torch.where(images > 0, self.logit, torch.full_like(images, -50.0))
        return torch.cat([torch.zeros_like(images), foreground], dim=1)


class LeftHalf(nn.Module):
    """Class 1 in the first half of the first axis, whatever is there."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        foreground = torch.full_like(images, -50.0) + self.nothing
        foreground[:, :, : images.shape[2] // 2] = 50.0
        return torch.cat([torch.zeros_like(images), foreground], dim=1)


def test_entropy_of_even_odds_is_the_logarithm_of_their_number() -> None:
    probabilities = np.array([[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]], np.float32)
    expected = [math.log(2), 0.0, -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))]
    np.testing.assert_allclose(entropy_of(probabilities), expected, atol=1e-6)


def test_score_is_one_minus_the_mean_dice_of_pairs() -> None:
    a = np.array([1, 1, 0, 0], np.uint8)
    b = np.array([1, 0, 0, 0], np.uint8)
    # Dice a-a 1, a-b 2*1/(2+1), a-b again: mean (1 + 2/3 + 2/3) / 3 = 7/9
    assert disagreement_score([a, a, b], n_classes=2) == pytest.approx(2 / 9)


def test_score_takes_each_label_that_any_member_draws() -> None:
    a = np.array([1, 2, 0, 0], np.uint8)
    b = np.array([1, 0, 0, 0], np.uint8)
    # label 1 agrees (Dice 1), label 2 is in one alone (Dice 0), label 3 in none and does not count
    assert disagreement_score([a, b], n_classes=4) == pytest.approx(0.5)


def test_members_that_all_draw_nothing_agree() -> None:
    nothing = np.zeros(4, np.uint8)
    assert disagreement_score([nothing, nothing], n_classes=2) == 0.0


def test_one_member_has_nobody_to_disagree_with() -> None:
    assert disagreement_score([np.ones(4, np.uint8)], n_classes=2) == 0.0


def test_two_models_sure_of_opposite_things_disagree_by_all_of_the_entropy() -> None:
    experiment = make_experiment(**NO_VIEWS_THAT_DIFFER)
    case = make_case("one")
    found = uncertainty_of([Certain(1 - 1e-7), Certain(1e-7)], case, experiment)
    inside = case.image[0] > 0
    np.testing.assert_allclose(found.entropy[inside], math.log(2), atol=1e-4)
    np.testing.assert_allclose(found.disagreement[inside], math.log(2), atol=1e-4)
    np.testing.assert_allclose(found.entropy[~inside], 0, atol=1e-4)
    # 3 views of each: of 15 pairs 6 agree (Dice 1), 9 are foreground against nothing (Dice 0)
    assert found.score == pytest.approx(9 / 15)


def test_one_unsure_model_has_entropy_and_no_disagreement() -> None:
    case = make_case("one")
    found = uncertainty_of([Certain(0.5)], case, make_experiment(**NO_VIEWS_THAT_DIFFER))
    inside = case.image[0] > 0
    np.testing.assert_allclose(found.entropy[inside], math.log(2), atol=1e-5)
    np.testing.assert_allclose(found.disagreement, 0, atol=1e-5)
    assert found.score == 0.0


def test_views_mirror_only_what_training_mirrored() -> None:
    augmentation = {"flip": [False, True]}
    names = [view.name for view in views_of(make_experiment(training={"augmentation": augmentation}))]
    assert names == ["as it is", "mirrored along 1", "contrast 0.75", "contrast 1.25"]


def test_what_is_seen_mirrored_is_turned_back() -> None:
    experiment = make_experiment(training={"augmentation": {"flip": [True, False]}})
    case = make_case("one", (20, 16))
    sides = uncertainty_of([LeftHalf()], case, experiment)
    # 3 views say left, 1 says right: 3 of 6 pairs agree, 3 share nothing
    assert sides.score == pytest.approx(0.5)
    same = uncertainty_of([Certain(0.9)], case, experiment)
    assert same.score == 0.0


@pytest.mark.parametrize("shape", [(16, 16), (64, 48)])  # seen whole; in windows
def test_views_of_images_of_any_size_agree_where_voxels_are_judged_alone(shape: tuple[int, int]) -> None:
    experiment = make_experiment(training={"augmentation": {"flip": [True, True]}})
    found = uncertainty_of([Certain(0.9)], make_case("one", shape), experiment)
    assert found.score == 0.0
    assert found.disagreement.max() < 1e-5
    assert found.entropy.max() == pytest.approx(entropy_of(np.array([[0.9], [0.1]], np.float32))[0], abs=1e-5)
