"""Scores of one case: hand arithmetic, MONAI as the reference, and properties."""

import math
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg_core.assessment.metrics import METRICS, LabelScores, score_case
from medseg_core.types import IGNORE

OVERLAPS = ("dice", "iou", "precision", "recall", "specificity", "surface_dice")
Mask = npt.NDArray[np.uint8]


def score(prediction: Mask, truth: Mask, spacing_mm=None, tolerance_mm=1.0) -> LabelScores:
    return score_case(prediction, truth, labels=("a",), spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)["a"]


def square(shape: tuple[int, ...], *box: tuple[int, int]) -> Mask:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(*edge) for edge in box)] = 1
    return mask


def ellipsoid(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> Mask:
    grid = np.indices(shape)
    squares = [((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)]
    return (sum(squares) < 1).astype(np.uint8)


def monai_distances(prediction: Mask, truth: Mask, spacing, tolerance: float) -> tuple[float, float]:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    one_hot = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth)]
    hd95 = compute_hausdorff_distance(*one_hot, include_background=True, percentile=95, spacing=spacing)
    surface = compute_surface_dice(*one_hot, [tolerance], include_background=True, spacing=spacing)
    return hd95.item(), surface.item()


# ---- by hand ---------------------------------------------------------------------------------------------


def test_overlaps_and_volume_of_two_shifted_squares_equal_the_hand_computation():
    truth = square((10, 10), (2, 6), (2, 6))  # 16 pixels
    prediction = square((10, 10), (2, 6), (4, 7))  # 12 pixels, 8 of them right

    scores = score(prediction, truth)

    assert scores.dice == pytest.approx(16 / 28)
    assert scores.iou == pytest.approx(8 / 20)
    assert scores.precision == pytest.approx(8 / 12)
    assert scores.recall == pytest.approx(8 / 16)
    assert scores.specificity == pytest.approx(80 / 84)
    assert scores.volume_error == pytest.approx(-0.25)
    assert scores.n_empty == 0


def test_distances_of_two_single_voxels_follow_the_spacing_axis_by_axis():
    truth, prediction = square((9, 9, 9), (1, 2), (1, 2), (1, 2)), square((9, 9, 9), (4, 5), (5, 6), (1, 2))

    scores = score(prediction, truth, spacing_mm=(2.0, 0.5, 7.0))

    assert scores.hd95_mm == pytest.approx(math.hypot(3 * 2.0, 4 * 0.5))
    assert scores.surface_dice == 0


def test_hd95_forgives_an_outlier_of_less_than_a_twentieth_of_the_surface():
    truth = square((200, 5), (10, 110), (2, 3))
    prediction = truth.copy()
    prediction[150, 2] = 1

    assert score(prediction, truth).hd95_px == 0
    assert score(prediction, truth).surface_dice == pytest.approx(200 / 201)


def test_a_voxel_at_the_tolerance_is_within_it_despite_rounding():
    truth, prediction = square((30, 3), (3, 4), (1, 2)), square((30, 3), (6, 7), (1, 2))

    assert score(prediction, truth, spacing_mm=(0.1, 0.1), tolerance_mm=0.3).surface_dice == 1
    assert score(prediction, truth, spacing_mm=(0.1, 0.1), tolerance_mm=0.29).surface_dice == 0


def test_labels_are_scored_apart_and_in_the_order_of_the_task():
    truth = square((8, 8), (0, 4), (0, 4)) + 2 * square((8, 8), (4, 8), (4, 8))
    prediction = square((8, 8), (0, 4), (0, 4)) + 2 * square((8, 8), (4, 8), (4, 6))

    scores = score_case(prediction, truth, labels=("anterior", "posterior"), spacing_mm=None)

    assert list(scores) == ["anterior", "posterior"]
    assert scores["anterior"].dice == 1
    assert scores["posterior"].dice == pytest.approx(16 / 24)


# ---- empty masks and ignored voxels ----------------------------------------------------------------------


def test_nothing_where_nothing_is_counts_as_perfect():
    empty = np.zeros((4, 5), dtype=np.uint8)

    scores = asdict(score(empty, empty))

    assert scores.pop("hd95_mm") is None
    assert {name for name, value in scores.items() if value == 1} == set(OVERLAPS)
    assert {name for name, value in scores.items() if value == 0} == {"hd95_px", "volume_error", "n_empty"}


def test_a_missed_structure_costs_everything_and_the_diagonal():
    truth, empty = square((30, 40), (3, 9), (3, 9)), np.zeros((30, 40), dtype=np.uint8)

    scores = score(empty, truth, spacing_mm=(1.0, 1.0))

    assert [getattr(scores, name) for name in OVERLAPS] == [0, 0, 0, 0, 1, 0]
    assert (scores.hd95_mm, scores.hd95_px) == (50, None)
    assert (scores.volume_error, scores.n_empty) == (-1, 1)


def test_an_invented_structure_has_no_relative_volume_error():
    prediction, empty = square((30, 40), (0, 30), (0, 10)), np.zeros((30, 40), dtype=np.uint8)

    scores = score(prediction, empty)

    assert (scores.dice, scores.recall, scores.hd95_px, scores.n_empty) == (0, 0, 50, 1)
    assert scores.specificity == pytest.approx(0.75)
    assert scores.volume_error is None


def test_ignored_voxels_count_neither_as_right_nor_as_wrong():
    truth = square((10, 10), (2, 6), (2, 6))
    prediction = truth.copy()
    prediction[8:, :] = 1
    truth[8:, :] = IGNORE

    scores = score(prediction, truth)

    assert (scores.dice, scores.hd95_px, scores.specificity) == (1, 0, 1)


def test_a_case_without_any_background_has_full_specificity():
    full = np.ones((4, 4), dtype=np.uint8)

    assert score(full, full).specificity == 1


def test_the_maps_are_not_changed():
    truth, prediction = square((6, 6), (1, 3), (1, 3)), square((6, 6), (2, 4), (1, 3))
    truth[5] = IGNORE
    copies = truth.copy(), prediction.copy()

    score(prediction, truth)

    assert np.array_equal(truth, copies[0])
    assert np.array_equal(prediction, copies[1])


def test_a_spacing_of_another_dimension_is_a_fault_of_the_caller():
    with pytest.raises(AssertionError, match=r"3\.0"):
        score(np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8), spacing_mm=(1.0, 1.0, 3.0))


MONAI_DEPRECATION = "ignore:.*always_return_as_numpy:FutureWarning"  # MONAI 1.6 warns about itself


# ---- against MONAI ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(MONAI_DEPRECATION)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.98, 0.98, 3.27)], ids=["isotropic", "anisotropic"])
def test_volumes_give_monais_distances(spacing):
    truth = ellipsoid((40, 36, 20), (20, 17, 9), (12, 9, 6))
    prediction = ellipsoid((40, 36, 20), (22, 16, 10), (10, 11, 6))

    scores = score(prediction, truth, spacing_mm=spacing, tolerance_mm=1.5)

    hd95, surface = monai_distances(prediction, truth, spacing, 1.5)
    assert scores.hd95_mm == pytest.approx(hd95, rel=1e-5)
    assert scores.surface_dice == pytest.approx(surface, rel=1e-5)


@pytest.mark.filterwarnings(MONAI_DEPRECATION)
def test_a_structure_cut_by_the_image_edge_gives_monais_distances():
    truth, prediction = square((20, 20), (0, 9), (11, 20)), square((20, 20), (0, 12), (8, 20))

    hd95, surface = monai_distances(prediction, truth, (1.0, 1.0), 1.0)
    assert score(prediction, truth).hd95_px == pytest.approx(hd95)
    assert score(prediction, truth).surface_dice == pytest.approx(surface)


@pytest.mark.filterwarnings(MONAI_DEPRECATION)
@pytest.mark.parametrize("density", [0.02, 0.5], ids=["by tree", "by transform"])
def test_noise_gives_monais_distances_whichever_way_they_are_found(density):
    noise = np.random.default_rng(0).random((2, 30, 20, 10)) < density
    prediction, truth = noise[0].astype(np.uint8), noise[1].astype(np.uint8)

    hd95, surface = monai_distances(prediction, truth, (1.0, 0.7, 2.0), 1.0)
    scores = score(prediction, truth, spacing_mm=(1.0, 0.7, 2.0))
    assert scores.hd95_mm == pytest.approx(hd95, rel=1e-5)
    assert scores.surface_dice == pytest.approx(surface, rel=1e-5)


# ---- properties ------------------------------------------------------------------------------------------

SHAPES = st.sampled_from([(7, 5), (6, 4, 5)])
MAPS = SHAPES.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, shape, elements=st.integers(0, 2)),
        hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 2, IGNORE])),
    )
)


@settings(max_examples=60, deadline=None)
@given(MAPS)
def test_scores_stay_in_their_ranges(maps):
    for scores in score_case(*maps, labels=("a", "b"), spacing_mm=None).values():
        for name in OVERLAPS:
            assert 0 <= getattr(scores, name) <= 1
        assert 0 <= scores.hd95_px <= math.hypot(*maps[0].shape)
        assert scores.volume_error is None or scores.volume_error >= -1
        assert scores.iou == pytest.approx(scores.dice / (2 - scores.dice))


@settings(max_examples=40, deadline=None)
@given(MAPS)
def test_a_map_agrees_fully_with_itself(maps):
    prediction, _ = maps
    for scores in score_case(prediction, prediction, labels=("a", "b"), spacing_mm=None).values():
        assert [getattr(scores, name) for name in OVERLAPS] == [1] * 6
        assert (scores.hd95_px, scores.volume_error, scores.n_empty) == (0, 0, 0)


@settings(max_examples=40, deadline=None)
@given(MAPS)
def test_exchanging_truth_and_prediction_exchanges_precision_and_recall_alone(maps):
    prediction, truth = (np.where(m == IGNORE, 0, m).astype(np.uint8) for m in maps)
    one, other = score(prediction, truth), score(truth, prediction)
    for name in ("dice", "iou", "hd95_px", "surface_dice", "n_empty"):
        assert getattr(one, name) == pytest.approx(getattr(other, name))
    assert (one.precision, one.recall) == (other.recall, other.precision)


@settings(max_examples=30, deadline=None)
@given(MAPS, st.floats(0.1, 10))
def test_a_coarser_grid_scales_distances_and_nothing_else(maps, factor):
    spacing = (factor,) * maps[0].ndim
    px = score(*maps)
    mm = score(*maps, spacing_mm=spacing, tolerance_mm=factor)
    assert mm.hd95_mm == pytest.approx(px.hd95_px * factor)
    for name in set(METRICS) - {"hd95_mm", "hd95_px"}:
        assert getattr(mm, name) == pytest.approx(getattr(px, name)), name
    assert (mm.hd95_px, px.hd95_mm) == (None, None)


def test_an_image_of_one_pixel_is_scored():
    one = np.ones((1, 1), np.uint8)
    assert score(one, one).hd95_px == 0
