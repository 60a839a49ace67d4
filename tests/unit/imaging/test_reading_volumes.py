"""NIfTI, NRRD and MetaImage files become volumes with the right axes, channels and geometry."""

import numpy as np
import pytest
from volume_files import ramp, write_volume

from medseg_core.data_errors import (
    ChannelCountError,
    ColourLabelError,
    DimensionError,
    NonIntegerLabelError,
    NotFiniteError,
    UnnamedChannelsError,
)
from medseg_core.imaging.io import file_suffix, read_image, read_label

OBLIQUE = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def image_of(path, *, dims=3, channels=1):
    return read_image(path, spatial_dims=dims, channels=channels, case_id="c1")


def label_of(path, *, dims=3):
    return read_label(path, spatial_dims=dims, case_id="c1")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("compress", [True, False])
def test_volume_keeps_axes_spacing_origin_and_direction(tmp_path, suffix, compress):
    grid = {"spacing": (0.5, 1.5, 3.0), "origin": (-10.0, 20.0, 30.0), "direction": OBLIQUE}
    path = write_volume(tmp_path / f"a{suffix}", ramp(3, 4, 5), **grid, compress=compress)
    volume = image_of(path)
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, ramp(3, 4, 5)[None])
    assert volume.geometry.shape == (3, 4, 5)
    assert volume.geometry.spacing_mm == pytest.approx(grid["spacing"])
    assert volume.geometry.origin_mm == pytest.approx(grid["origin"])
    assert volume.geometry.direction == pytest.approx(OBLIQUE, abs=1e-6)


@pytest.mark.parametrize("word", ["LOCAL", "Local", "local"])
def test_metaimage_says_in_any_case_that_its_voxels_are_behind_the_header(tmp_path, word):
    path = write_volume(tmp_path / "a.mha", ramp(3, 4, 5), compress=False)
    path.write_bytes(path.read_bytes().replace(b"LOCAL", word.encode()))
    np.testing.assert_array_equal(image_of(path).voxels, ramp(3, 4, 5)[None])


def test_voxels_cannot_be_changed(tmp_path):
    volume = image_of(write_volume(tmp_path / "a.nii", ramp(3, 4, 5)))
    with pytest.raises(ValueError, match="read-only"):
        volume.voxels[0, 0, 0, 0] = 1


def test_last_axis_is_channels_where_the_task_names_as_many(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz", ramp(3, 4, 5, 2), spacing=(1, 2, 3, 1))
    volume = image_of(path, channels=2)
    np.testing.assert_array_equal(volume.voxels, np.moveaxis(ramp(3, 4, 5, 2), -1, 0))
    assert volume.geometry.spacing_mm == (1, 2, 3)
    assert len(volume.geometry.direction) == 9


def test_four_dimensional_volume_without_named_channels_is_refused(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz", ramp(3, 4, 5, 7))
    with pytest.raises(UnnamedChannelsError, match=r"4D \(3x4x5x7\).*name all 7 in \[task\] channels"):
        image_of(path)


def test_four_dimensional_volume_of_one_time_point_is_three_dimensional(tmp_path):
    assert image_of(write_volume(tmp_path / "a.mha", ramp(3, 4, 5, 1))).geometry.shape == (3, 4, 5)


def test_components_of_a_voxel_are_channels(tmp_path):
    volume = image_of(write_volume(tmp_path / "a.mha", ramp(3, 4, 5, 2), is_vector=True), channels=2)
    np.testing.assert_array_equal(volume.voxels, np.moveaxis(ramp(3, 4, 5, 2), -1, 0))


def test_wrong_channel_count_says_both_numbers(tmp_path):
    path = write_volume(tmp_path / "a.nii", ramp(3, 4, 5))
    with pytest.raises(ChannelCountError, match=r"has 1 channel.*names 2\. Name 1 in \[task\] channels"):
        image_of(path, channels=2)


@pytest.mark.parametrize(
    ("shape", "expected"), [((4, 5, 1), (4, 5)), ((1, 4, 5), (4, 5)), ((4, 1, 5), (4, 5))]
)
def test_single_slice_serves_a_2d_task(tmp_path, shape, expected):
    grid = {"spacing": (1, 2, 3), "direction": OBLIQUE}
    volume = image_of(write_volume(tmp_path / "a.nii.gz", ramp(*shape), **grid), dims=2)
    np.testing.assert_array_equal(volume.voxels, ramp(*shape).reshape(1, *expected))
    assert volume.geometry.spacing_mm == tuple(s for s, n in zip((1, 2, 3), shape, strict=True) if n > 1)
    assert abs(np.linalg.det(np.reshape(volume.geometry.direction, (2, 2)))) == pytest.approx(1)


@pytest.mark.parametrize(
    ("shape", "dims", "told"), [((3, 4, 5), 2, "spatial_dims = 3"), ((3, 4), 3, "spatial_dims = 2")]
)
def test_wrong_number_of_axes_is_refused_with_the_setting_that_would_fit(tmp_path, shape, dims, told):
    path = write_volume(tmp_path / "a.mha", ramp(*shape))
    with pytest.raises(DimensionError, match=told):
        image_of(path, dims=dims)


def test_without_a_task_axes_and_channels_come_as_found(tmp_path):
    flat = write_volume(tmp_path / "flat.mha", ramp(3, 4))
    many = write_volume(tmp_path / "many.nii.gz", ramp(3, 4, 5, 6))
    assert image_of(flat, dims=None, channels=None).voxels.shape == (1, 3, 4)
    assert image_of(many, dims=None, channels=None).voxels.shape == (6, 3, 4, 5)


def test_values_beyond_single_precision_become_infinite_without_a_warning(tmp_path):
    image = np.full((3, 4, 5), 1e300)
    assert np.isinf(image_of(write_volume(tmp_path / "a.nrrd", image)).voxels).all()


def test_label_keeps_its_own_values_and_type(tmp_path):
    volume = label_of(write_volume(tmp_path / "a.nii.gz", ramp(3, 4, 5, dtype=np.int16) - 7))
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels[0], ramp(3, 4, 5) - 7)


@pytest.mark.parametrize("noise", [0.0, 4e-4])
def test_floating_point_label_with_whole_numbers_is_read(tmp_path, noise):
    volume = label_of(write_volume(tmp_path / "a.nii.gz", ramp(3, 4, 5) + np.float32(noise)))
    assert np.issubdtype(volume.voxels.dtype, np.integer)
    np.testing.assert_array_equal(volume.voxels[0], ramp(3, 4, 5))


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e12])
def test_label_that_is_no_whole_number_is_refused(tmp_path, value):
    label = np.zeros((3, 4, 5), np.float32)
    label[1, 2, 3] = value
    path = write_volume(tmp_path / "a.mha", label)
    with pytest.raises(NonIntegerLabelError, match="without interpolation") as refusal:
        label_of(path)
    assert refusal.value.example == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_in_nifti_is_not_taken_for_zero(tmp_path, suffix, dtype):
    image = ramp(3, 4, 5).astype(dtype)
    image[0, 1, :2] = np.nan, np.inf
    path = write_volume(tmp_path / f"a{suffix}", image)
    with pytest.raises(NotFiniteError, match=r"2 voxel.*Replace them by the background's value"):
        image_of(path)


def test_colour_label_is_refused(tmp_path):
    path = write_volume(tmp_path / "a.mha", ramp(3, 4, 5, 3), is_vector=True)
    with pytest.raises(ColourLabelError, match="one channel that holds label numbers"):
        label_of(path)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.nii.gz", ".nii.gz"), ("A.NII.GZ", ".nii.gz"), ("a.b.png", ".png"), ("a.txt", ".txt")],
)
def test_ending_of_a_name(tmp_path, name, suffix):
    assert file_suffix(tmp_path / name) == suffix
