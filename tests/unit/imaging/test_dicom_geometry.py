"""Slices become a grid by where they lie, or the reason why not is told."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import (
    AXIAL,
    SPACING_MM,
    STEP_MM,
    expected_voxels,
    make_enhanced,
    make_slice,
    only_series,
    place,
    save,
    write_series,
)

from medseg_core.dicom_errors import (
    DicomHeaderError,
    MixedSeriesError,
    RepeatedSliceError,
    SliceSpacingError,
    TiltedSeriesError,
)
from medseg_core.imaging.dicom.series import read_series, read_slices

SAGITTAL, CORONAL = (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)
OBLIQUE = (0.8, 0.6, 0, -0.36, 0.48, 0.8)


def series_at(folder, positions, orientation=AXIAL):
    def move(k, made):
        made.ImagePositionPatient = place(positions[k], orientation)
        made.ImageOrientationPatient = list(orientation)

    return only_series(write_series(folder, len(positions), alter=move))


def test_axial_slices_are_a_grid_in_millimetres(tmp_path):
    volume = read_series(only_series(write_series(tmp_path)))

    assert volume.geometry.shape == (5, 4, 4)
    assert volume.geometry.spacing_mm == (SPACING_MM[1], SPACING_MM[0], STEP_MM)
    assert volume.geometry.origin_mm == (10, -20, 30)
    assert volume.geometry.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels[0], expected_voxels(4))


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
def test_a_stack_in_any_direction_lies_where_itk_sees_it(tmp_path, orientation):
    series = series_at(tmp_path, range(4), orientation)
    volume = read_series(series)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    seen = reader.Execute()

    np.testing.assert_allclose(volume.geometry.spacing_mm, seen.GetSpacing())
    corners = [(0, 0, 0), (4, 0, 0), (0, 3, 0), (0, 0, 3)]
    matrix = np.reshape(volume.geometry.direction, (3, 3))
    for corner in corners:
        ours = np.asarray(volume.geometry.origin_mm) + matrix @ (
            corner * np.asarray(volume.geometry.spacing_mm)
        )
        value = volume.voxels[0][corner]
        theirs = seen.TransformPhysicalPointToIndex(ours.tolist())
        assert seen.GetPixel(theirs) == value
        np.testing.assert_allclose(seen.TransformIndexToPhysicalPoint(theirs), ours, atol=1e-6)


@pytest.mark.parametrize(
    ("orientation", "named"),
    [(AXIAL, "axial"), (SAGITTAL, "sagittal"), (CORONAL, "coronal"), (OBLIQUE, "oblique")],
)
def test_the_scan_names_the_orientation(tmp_path, orientation, named):
    assert series_at(tmp_path, range(2), orientation).orientation == named


def test_slices_stored_from_the_top_come_out_from_the_bottom(tmp_path):
    volume = read_series(series_at(tmp_path, [3, 2, 1, 0]))

    assert volume.geometry.origin_mm == (10, -20, 30)
    np.testing.assert_array_equal(volume.voxels[0], expected_voxels(4)[..., ::-1])


def test_gaps_between_thin_slices_count_as_spacing(tmp_path):
    write_series(tmp_path, SliceThickness=1.0)

    assert read_series(only_series(tmp_path)).geometry.spacing_mm[2] == STEP_MM


def test_rounding_of_positions_is_no_fault(tmp_path):
    positions = [0, 1.05, 1.95, 3.05, 4]  # as 0.1 mm would round slices of 1 mm
    volume = read_series(series_at(tmp_path, positions))

    assert volume.geometry.spacing_mm[2] == pytest.approx(STEP_MM)


def test_slices_that_drift_apart_are_refused(tmp_path):
    positions = np.cumsum(
        [0.97] * 10 + [1.03] * 10
    )  # each step is near the others, the middle is off by a third

    with pytest.raises(SliceSpacingError, match=r"not evenly spaced: steps of 2\.91, 3\.09 mm"):
        read_series(series_at(tmp_path, positions))


def test_one_slice_that_lies_aside_is_refused(tmp_path):
    def aside(k, made):
        made.ImagePositionPatient = [10 + 2 * (k == 5), -20, 30 + 3 * k]

    with pytest.raises(TiltedSeriesError, match=r"shifted sideways by 2 mm"):
        read_series(only_series(write_series(tmp_path, 9, alter=aside)))


def test_a_missing_slice_is_counted(tmp_path):
    series = series_at(tmp_path, [0, 1, 3, 4, 5])

    with pytest.raises(SliceSpacingError, match=r"1 slice\(s\) are missing: steps of 3, 6 mm") as refusal:
        read_series(series)
    assert "Fetch the series again, whole" in refusal.value.remedy


def test_uneven_slices_are_refused_with_their_steps(tmp_path):
    with pytest.raises(SliceSpacingError, match=r"not evenly spaced: steps of 3, 4\.2 mm"):
        read_series(series_at(tmp_path, [0, 1, 2, 3.4]))


def test_two_slices_at_one_place_are_refused(tmp_path):
    with pytest.raises(RepeatedSliceError, match="its 4 slices lie at 2 places"):
        read_series(series_at(tmp_path, [0, 0, 1, 1]))


def test_a_tilted_gantry_is_refused(tmp_path):
    def shift(k, made):
        made.ImagePositionPatient = [10, -20 + 0.9 * k, 30 + 3 * k]

    with pytest.raises(TiltedSeriesError, match=r"shifted sideways by 0\.9 mm"):
        read_series(only_series(write_series(tmp_path, alter=shift)))


@pytest.mark.parametrize(
    ("keyword", "value", "quantity"),
    [
        ("PixelSpacing", [0.7, 0.6], "spacing"),
        ("ImageOrientationPatient", list(CORONAL), "orientation"),
        ("FrameOfReferenceUID", "1.2.3.99", "frame of reference"),
    ],
)
def test_a_slice_unlike_the_others_is_told(tmp_path, keyword, value, quantity):
    def odd(k, made):
        if k == 2:
            setattr(made, keyword, value)

    with pytest.raises(MixedSeriesError, match=f"its slices differ in {quantity}"):
        read_series(only_series(write_series(tmp_path, alter=odd)))


def test_a_single_slice_is_as_deep_as_it_is_thick(tmp_path):
    volume = read_series(only_series(write_series(tmp_path, 1)))

    assert volume.geometry.shape == (5, 4, 1)
    assert volume.geometry.spacing_mm[2] == STEP_MM


def test_a_single_slice_without_thickness_is_refused(tmp_path):
    with pytest.raises(
        DicomHeaderError, match="its SliceThickness is missing, and a single slice has no other depth"
    ):
        read_series(only_series(write_series(tmp_path, 1, SliceThickness=None)))


def test_frames_of_an_enhanced_file_are_placed_and_rescaled_one_by_one(tmp_path):
    save(make_enhanced(3), tmp_path / "mr.dcm")
    volume = read_series(only_series(tmp_path))

    assert volume.geometry.origin_mm == (10, -20, 30)
    assert volume.geometry.spacing_mm == (SPACING_MM[1], SPACING_MM[0], STEP_MM)
    slopes, intercepts = np.asarray([1, 2, 3]), np.asarray([0, -1, -2])
    np.testing.assert_array_equal(volume.voxels[0], expected_voxels(3) * slopes + intercepts)


def test_an_enhanced_file_with_two_echoes_is_refused(tmp_path):
    save(make_enhanced(order=[0, 1, 2, 0, 1, 2]), tmp_path / "mr.dcm")

    with pytest.raises(RepeatedSliceError, match="its 6 slices lie at 3 places only, as with echoes, time"):
        read_series(only_series(tmp_path))


def test_each_slice_has_its_reference(tmp_path):
    slices = read_slices(series_at(tmp_path, [3, 2, 1, 0]))

    assert [one.sop_instance_uid for one in slices.references] == [f"1.2.3.4.{k}" for k in (4, 3, 2, 1)]
    assert {one.frame_number for one in slices.references} == {None}


def test_each_frame_of_an_enhanced_file_has_its_number(tmp_path):
    save(make_enhanced(3), tmp_path / "mr.dcm")

    assert [one.frame_number for one in read_slices(only_series(tmp_path)).references] == [3, 2, 1]


def test_where_a_slice_lies_counts_not_its_number(tmp_path):
    def misnumber(k, made):
        made.InstanceNumber = 100 - k
        made.SliceLocation = -k

    volume = read_series(only_series(write_series(tmp_path, alter=misnumber)))

    np.testing.assert_array_equal(volume.voxels[0], expected_voxels(4))


def test_a_series_prints_no_identifier(tmp_path):
    save(make_slice(0), tmp_path / "P1.dcm")

    assert repr(only_series(tmp_path)).find("P1") == -1
    assert "1.2.3.4" not in repr(only_series(tmp_path))
