"""Volumes move between grids without leaving their place in the world."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from volume_files import IDENTITY_3D, make_volume, ramp

from medseg_core.data_errors import GridTooLargeError
from medseg_core.imaging.geometry import crop, reorient, resample, resample_to
from medseg_core.types import IGNORE, Geometry


def world_of(volume, index):
    grid, n = volume.geometry, len(index)
    return np.asarray(grid.origin_mm) + np.reshape(grid.direction, (n, n)) @ (
        np.asarray(index) * grid.spacing
    )


def world_sum(volume):
    """Sum of voxel value times position: what stays when axes are swapped and mirrored."""
    grid = volume.geometry
    places = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1) * grid.spacing
    world = places @ np.reshape(grid.direction, (3, 3)).T + grid.origin_mm
    return (world * volume.voxels[0][..., None]).sum(axis=(0, 1, 2))


def test_turning_to_another_orientation_by_hand():
    volume = make_volume((2, 3, 4), (1.0, 2.0, 3.0), voxels=ramp(1, 2, 3, 4))
    turned = reorient(volume, "RAS")
    np.testing.assert_array_equal(turned.voxels, volume.voxels[:, ::-1, ::-1, :])
    assert turned.geometry == Geometry(
        (2, 3, 4), (1.0, 2.0, 3.0), (1.0, 4.0, 0.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    )


@pytest.mark.parametrize("code", ["LPS", "RAS", "SPL", "AIR", "PIR", "ILA"])
def test_turning_keeps_every_voxel_in_its_place(code):
    volume = make_volume((2, 3, 4), (1.0, 2.0, 3.0), voxels=ramp(2, 2, 3, 4), origin_mm=(5.0, 6.0, 7.0))
    turned = reorient(volume, code)
    assert turned.voxels.dtype == volume.voxels.dtype
    np.testing.assert_allclose(world_sum(turned), world_sum(volume))
    back = reorient(turned, "LPS")
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    assert back.geometry == volume.geometry


def test_turning_an_oblique_volume_interpolates_nothing():
    angle = np.deg2rad(20)
    direction = (np.cos(angle), -np.sin(angle), 0.0, np.sin(angle), np.cos(angle), 0.0, 0.0, 0.0, 1.0)
    volume = make_volume((2, 3, 4), direction=tuple(float(x) for x in direction))
    turned = reorient(volume, "RAS")
    assert sorted(turned.voxels.ravel()) == sorted(volume.voxels.ravel())
    np.testing.assert_allclose(world_sum(turned), world_sum(volume))


def test_crop_stays_in_its_place():
    direction = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    volume = make_volume((4, 5, 6), (1.0, 2.0, 3.0), direction=direction, origin_mm=(10.0, 20.0, 30.0))
    part = crop(volume, (slice(1, 3), slice(2, None), slice(0, 4)))
    np.testing.assert_array_equal(part.voxels, volume.voxels[:, 1:3, 2:, :4])
    assert part.geometry.origin_mm == tuple(world_of(volume, (1, 2, 0)))


def test_halving_the_spacing_of_a_line_by_hand():
    volume = make_volume((2, 1), (2.0, 1.0), voxels=np.array([[[0.0], [4.0]]], np.float32))
    fine = resample(volume, (1.0, 1.0), is_label=False)
    np.testing.assert_allclose(fine.voxels[0, :, 0], [0.0, 1.0, 3.0, 4.0])  # centres at -0.5, 0.5, 1.5, 2.5
    assert fine.geometry.origin_mm == (-0.5, 0.0)
    assert fine.geometry.spacing_mm == (1.0, 1.0)


def test_every_channel_is_resampled_alike():
    voxels = ramp(2, 4, 5, 6).astype(np.float32)
    both = resample(make_volume((4, 5, 6), voxels=voxels), (2.0, 1.5, 0.7), is_label=False)
    one = resample(make_volume((4, 5, 6), voxels=voxels[1:]), (2.0, 1.5, 0.7), is_label=False)
    np.testing.assert_allclose(both.voxels[1], one.voxels[0])
    assert both.voxels.dtype == np.float32
    assert both.voxels.shape == (2, 2, 3, 9)


def test_linear_ramp_stays_a_linear_ramp():
    voxels = np.broadcast_to(np.arange(20, dtype=np.float32)[:, None], (20, 8))[None].copy()
    moved = resample(make_volume((20, 8), (1.0, 1.0), voxels=voxels), (1.7, 1.0), is_label=False)
    inner = moved.voxels[0, 1:-1, 0]
    np.testing.assert_allclose(np.diff(inner), 1.7, rtol=1e-5)
    assert inner[0] == pytest.approx(world_of(moved, (1, 0))[0], rel=1e-5)


def test_picture_counts_pixels_and_comes_back_without_millimetres():
    volume = make_volume((8, 4), None, voxels=ramp(3, 8, 4).astype(np.float32))
    small = resample(volume, (2.0, 2.0), is_label=False)
    assert small.geometry.shape == (4, 2)
    assert small.geometry.spacing == (2.0, 2.0)
    back = resample_to(small, volume.geometry, is_label=False)
    assert back.geometry == volume.geometry
    assert back.geometry.spacing_mm is None
    np.testing.assert_allclose(back.voxels[:, 3:5, 1:3], volume.voxels[:, 3:5, 1:3], atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    labels=npst.arrays(np.uint8, (1, 5, 6, 4), elements=st.sampled_from([0, 1, 3, 7, IGNORE])),
    spacing=st.tuples(*[st.floats(0.3, 3.0)] * 3),
)
def test_labels_never_get_a_new_value(labels, spacing):
    volume = make_volume((5, 6, 4), voxels=labels)
    moved = resample(volume, spacing, is_label=True)
    assert set(np.unique(moved.voxels)) <= set(np.unique(labels))
    assert moved.voxels.dtype == np.uint8
    back = resample_to(moved, volume.geometry, is_label=True)
    assert set(np.unique(back.voxels)) <= set(np.unique(labels))


@settings(deadline=None, max_examples=40)
@given(spacing=st.tuples(*[st.floats(0.3, 3.0)] * 3), value=st.sampled_from([2, IGNORE]))
def test_uniform_label_stays_uniform_to_the_border_and_back(spacing, value):
    volume = make_volume((5, 6, 4), voxels=np.full((1, 5, 6, 4), value, np.uint8))
    moved = resample(volume, spacing, is_label=True)
    assert (moved.voxels == value).all()
    assert (resample_to(moved, volume.geometry, is_label=True).voxels == value).all()


def test_label_comes_back_from_a_finer_grid_unchanged():
    labels = np.random.default_rng(0).choice([0, 1, 2, IGNORE], size=(1, 6, 7, 5)).astype(np.uint8)
    volume = make_volume((6, 7, 5), voxels=labels)
    fine = resample(volume, (0.2, 0.2, 0.2), is_label=True)
    np.testing.assert_array_equal(resample_to(fine, volume.geometry, is_label=True).voxels, labels)


def test_crop_put_back_is_background_outside():
    volume = make_volume((9, 9, 9), voxels=np.full((1, 9, 9, 9), 3, np.uint8))
    part = crop(volume, (slice(3, 6),) * 3)
    whole = resample_to(part, volume.geometry, is_label=True).voxels[0]
    assert (whole[3:6, 3:6, 3:6] == 3).all()
    assert not whole[:2].any()
    assert not whole[:, :, 7:].any()
    image = crop(
        make_volume((9, 9, 9), voxels=ramp(1, 9, 9, 9).astype(np.float32) - 1000), (slice(3, 6),) * 3
    )
    assert resample_to(image, volume.geometry, is_label=False).voxels[0, 0, 0, 0] == image.voxels.min()


def test_same_grid_changes_nothing():
    volume = make_volume()
    assert resample_to(volume, volume.geometry, is_label=False) is volume


def test_absurd_spacing_is_refused_before_anything_is_allocated():
    with pytest.raises(
        GridTooLargeError, match=r"4000x5000x6000 voxels\. Choose a coarser \[task\] spacing_mm"
    ):
        resample(make_volume(direction=IDENTITY_3D), (0.001, 0.001, 0.001), is_label=False)
