"""Preprocessing: intensities by hand, grids, and labels that stay on their images."""

from pathlib import Path

import numpy as np
import pytest
from builders import make_experiment

from medseg_core.cohort.preprocess import FOREGROUND_SAMPLES, normalise, preprocess
from medseg_core.config import Channel, Task
from medseg_core.types import IGNORE, Case, Geometry, LoadedCase, Volume


def make_task(dims: int = 3, **settings: object) -> Task:
    training = {"patch_size": (8,) * dims}
    return make_experiment(task={"spatial_dims": dims, **settings}, training=training).task


def loaded(
    image: np.ndarray,
    label: np.ndarray | None,
    spacing: tuple[float, ...] | None = None,
    direction: np.ndarray | None = None,
) -> LoadedCase:
    dims = image.ndim - 1
    axes = np.eye(dims) if direction is None else direction
    geometry = Geometry(image.shape[1:], spacing, (0.0,) * dims, tuple(axes.ravel().tolist()))
    volume = Volume(image.astype(np.float32), geometry)
    return LoadedCase(Case("case", "patient", "", (Path("image"),), None), volume, label)


def blocks(shape: tuple[int, ...] = (12, 10, 8)) -> np.ndarray:
    """A label map of blocks with class 1, 2 and a strip that is not annotated."""
    label = np.zeros(shape, np.uint8)
    label[2:6, 2:8, 2:6] = 1
    label[6:10, 2:8, 2:6] = 2
    label[0] = IGNORE
    return label


def channel(**settings: object) -> Channel:
    return Channel(name="grey", **settings)


def test_zscore_has_mean_zero_and_deviation_one() -> None:
    voxels = np.random.default_rng(0).normal(1e6, 3e4, (20, 20, 10)).astype(np.float32)
    scaled = normalise(voxels, channel())
    assert scaled.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert scaled.std(dtype=np.float64) == pytest.approx(1, abs=1e-5)


def test_zscore_by_hand() -> None:
    np.testing.assert_allclose(
        normalise(np.float32([1, 3, 5, 7]), channel()), np.array([-3, -1, 1, 3]) / 5**0.5
    )


def test_window_maps_its_ends_to_minus_one_and_one_and_clips() -> None:
    scaled = normalise(
        np.float32([-2000, -150, 50, 250, 3000]), channel(normalisation="window", window=(-150, 250))
    )
    assert scaled.tolist() == [-1, -1, 0, 1, 1]
    assert scaled.dtype == np.float32


def test_range_is_that_of_the_percentiles() -> None:
    scaled = normalise(np.arange(1001, dtype=np.float32), channel(normalisation="range"))
    assert scaled[[0, 5, 500, 995, 1000]].tolist() == pytest.approx([-1, -1, 0, 1, 1], abs=1e-6)


@pytest.mark.parametrize("normalisation", ["zscore", "range"])
def test_a_channel_that_is_constant_where_it_is_cropped_gives_finite_numbers(normalisation: str) -> None:
    assert np.isfinite(normalise(np.full((4, 4), 7, np.float32), channel(normalisation=normalisation))).all()


def test_equalisation_spreads_a_narrow_histogram() -> None:
    rng = np.random.default_rng(0)
    voxels = (100 + rng.random((64, 64))).astype(np.float32)
    voxels[::8, ::8] = 150
    plain = normalise(voxels, channel(normalisation="range"))
    equalised = normalise(voxels, channel(normalisation="range", clahe=True))
    assert (equalised.min(), equalised.max()) == (-1, 1)
    assert np.ptp(np.quantile(equalised, (0.1, 0.9))) > 3 * np.ptp(np.quantile(plain, (0.1, 0.9)))


def test_equalisation_works_inside_the_window() -> None:
    rng = np.random.default_rng(0)
    voxels = rng.uniform(-100, 200, (64, 64)).astype(np.float32)
    ct = channel(normalisation="window", window=(-100, 200), clahe=True)
    with_metal = voxels.copy()
    with_metal[0, 0] = 30_000
    scaled = normalise(with_metal, ct)
    assert np.ptp(np.quantile(scaled, (0.1, 0.9))) > 0.8
    assert np.abs(scaled - normalise(voxels, ct)).mean() < 0.05


def test_without_any_setting_the_label_comes_out_as_it_went_in() -> None:
    image, label = np.random.default_rng(0).random((1, 12, 10, 8)), blocks()
    prepared = preprocess(loaded(image, label, (1.0, 1.0, 1.0)), make_task(labels={"a": 1, "b": 2}))
    np.testing.assert_array_equal(prepared.label, label)
    assert prepared.geometry == prepared.original
    assert prepared.label_voxels == (4 * 6 * 4, 4 * 6 * 4)
    assert prepared.foreground_mm3 == 192


@pytest.mark.parametrize("spacing_mm", [(0.5, 0.5, 1.5), (2.0, 2.0, 2.0), (1.0, 1.3, 0.7)])
def test_resampling_keeps_labels_on_the_image_and_invents_no_value(spacing_mm: tuple[float, ...]) -> None:
    label = blocks((24, 20, 16))
    label[20:] = IGNORE
    image = np.where(label == IGNORE, 0, label)[None] * 100.0
    task = make_task(
        labels={"a": 1, "b": 2},
        spacing_mm=spacing_mm,
        channels=[{"name": "x", "normalisation": "window", "window": (0, 200)}],
    )
    prepared = preprocess(loaded(image, label, (1.0, 1.0, 1.5)), task)
    assert prepared.geometry.spacing_mm == spacing_mm
    assert prepared.image.shape[1:] == prepared.label.shape == prepared.geometry.shape
    assert set(np.unique(prepared.label)) == {0, 1, 2, IGNORE}
    annotated = prepared.label != IGNORE
    difference = np.abs((prepared.image[0] + 1) - prepared.label)[annotated]
    assert np.mean(difference < 0.51) > 0.95  # but for rounded edges the image says what the label says
    assert prepared.label_voxels == (int((label == 1).sum()), int((label == 2).sum()))
    assert prepared.original.spacing_mm == (1.0, 1.0, 1.5)


def test_foreground_crop_cuts_the_same_box_from_image_and_label() -> None:
    label = blocks()
    image = np.zeros((2, 12, 10, 8))
    image[0, 1:11, 2:9, 2:7] = 5.0
    image[1, 1:11, 2:9, 3:8] = np.random.default_rng(0).random((10, 7, 5)) + 1
    task = make_task(labels={"a": 1, "b": 2}, foreground_crop=True, channels=[{"name": "x"}, {"name": "y"}])
    prepared = preprocess(loaded(image, label, (1.0, 2.0, 3.0)), task)
    assert prepared.label.shape == (10, 7, 6)
    np.testing.assert_array_equal(prepared.label, label[1:11, 2:9, 2:8])
    assert prepared.geometry.origin_mm == (1.0, 4.0, 6.0)
    assert prepared.label_voxels == (96, 96)


def test_a_volume_from_another_orientation_ends_as_the_same_case() -> None:
    label = blocks()
    image = (label * 10.0 + np.arange(8) / 10)[None]
    plain = preprocess(loaded(image, label, (1.0, 1.0, 1.0)), make_task(labels={"a": 1, "b": 2}))
    flipped = loaded(
        image[:, ::-1, ::-1].copy(), label[::-1, ::-1].copy(), (1.0, 1.0, 1.0), np.diag([-1.0, -1.0, 1.0])
    )
    turned = preprocess(flipped, make_task(labels={"a": 1, "b": 2}))
    np.testing.assert_array_equal(turned.label, plain.label)
    np.testing.assert_allclose(turned.image, plain.image, atol=1e-6)


def test_pictures_are_scaled_to_the_longest_side_without_millimetres() -> None:
    label = np.zeros((40, 20), np.uint8)
    label[10:30, 4:16] = 1
    task = make_task(2, longest_side_px=20)
    prepared = preprocess(loaded(np.random.default_rng(0).random((1, 40, 20)), label), task)
    assert prepared.label.shape == (20, 10)
    assert prepared.label.sum() == 10 * 6
    assert prepared.label_voxels == (240,)
    assert prepared.foreground_mm3 == 240


def test_spacing_in_millimetres_leaves_pictures_without_them_alone() -> None:
    task = make_task(2, spacing_mm=(0.5, 0.5))
    prepared = preprocess(
        loaded(np.random.default_rng(0).random((1, 40, 20)), np.ones((40, 20), np.uint8)), task
    )
    assert prepared.label.shape == (40, 20)


def test_foreground_rows_name_voxels_of_their_label_and_never_ignored_ones() -> None:
    label = np.zeros((40, 40, 10), np.uint8)
    label[:, :, :5] = 1
    label[0, 0, 9] = 2
    label[:, 20:, 9] = IGNORE
    image = np.random.default_rng(0).random((1, 40, 40, 10))
    task = make_task(labels={"a": 1, "b": 2})
    prepared = preprocess(loaded(image, label, (1.0, 1.0, 1.0)), task)
    rows = prepared.foreground
    np.testing.assert_array_equal(prepared.label[tuple(rows[:, 1:].T)], rows[:, 0])
    assert np.bincount(rows[:, 0]).tolist() == [0, FOREGROUND_SAMPLES, 1]
    assert len(np.unique(rows, axis=0)) == len(rows)
    np.testing.assert_array_equal(rows, preprocess(loaded(image, label, (1.0, 1.0, 1.0)), task).foreground)


def test_a_case_without_label_or_foreground_has_no_rows() -> None:
    prepared = preprocess(
        loaded(np.random.default_rng(0).random((1, 6, 6, 6)), None, (1.0, 1.0, 1.0)), make_task()
    )
    assert prepared.foreground.shape == (0, 4)
    assert prepared.label_voxels == (0,)
