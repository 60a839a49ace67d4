"""Contours of an RTSTRUCT become masks: by hand, and against the masks that were published with them."""

from pathlib import Path

import numpy as np
import pytest
from dicom_files import change, make_contour, make_structures, only_series, place, save, write_series
from hypothesis import given
from hypothesis import strategies as st

from medseg_core.dicom_errors import ForeignSegmentationError
from medseg_core.imaging.dicom.scan import scan
from medseg_core.imaging.dicom.series import read_series
from medseg_core.imaging.dicom.structures import inside, read_structures
from medseg_core.imaging.geometry import resample_to
from medseg_core.imaging.io import read_label
from medseg_core.types import Geometry

DATA = Path(__file__).parents[3] / "shared" / "data"
published = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published sets are not at {DATA}")

GRID = Geometry((12, 10, 4), (0.5, 0.7, 3.0), (10.0, -20.0, 30.0), tuple(np.eye(3).ravel()))


def box(k, left, right, top, bottom, grid=GRID):
    """A contour half a voxel around columns `left..right` and rows `top..bottom` of slice `k`."""
    left, right, top, bottom = left - 0.5, right + 0.5, top - 0.5, bottom + 0.5
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    matrix = np.reshape(grid.direction, (3, 3)) * np.asarray(grid.spacing_mm)
    return [(np.asarray(grid.origin_mm) + matrix @ (i, j, k)).tolist() for i, j in corners]


def mask_of(tmp_path, contours, grid=GRID):
    path = save(make_structures({"liver": contours}), tmp_path / "rs.dcm")
    (segment,) = read_structures(path, grid)
    assert segment.name == "liver"
    return segment.mask


def expected(*boxes):
    mask = np.zeros(GRID.shape, bool)
    for k, left, right, top, bottom in boxes:
        mask[left : right + 1, top : bottom + 1, k] ^= True
    return mask


def test_voxels_with_their_centre_inside_belong(tmp_path):
    np.testing.assert_array_equal(mask_of(tmp_path, [box(1, 2, 8, 3, 6)]), expected((1, 2, 8, 3, 6)))


def test_a_contour_within_another_is_a_hole_and_one_within_that_an_island(tmp_path):
    boxes = [(1, 1, 10, 1, 8), (1, 3, 8, 3, 6), (1, 5, 6, 4, 5)]

    np.testing.assert_array_equal(mask_of(tmp_path, [box(*b) for b in boxes]), expected(*boxes))


def drawn_as(*contours):
    """The structure of contours, each with its kind."""
    made = make_structures({"liver": [points for _, points in contours]})
    for one, (kind, _) in zip(made.ROIContourSequence[0].ContourSequence, contours, strict=True):
        one.ContourGeometricType = kind
    return made


@pytest.mark.parametrize(
    ("contours", "is_lost"),
    [
        ([], False),  # drawn nowhere: there is none
        ([("POINT", [(11, -19, 33)])], True),
        ([("OPEN_PLANAR", box(1, 2, 8, 3, 6))], True),
        ([("CLOSED_PLANAR", [(11, -19, 33), (11.2, -19, 33)])], True),  # a scrap
        ([("CLOSED_PLANAR", [(11.1, -19, 33), (11.2, -19, 33), (11.2, -18.9, 33)])], True),  # within a voxel
        ([("POINT", [(11, -19, 33)]), ("CLOSED_PLANAR", box(1, 2, 8, 3, 6))], False),
    ],
)
def test_contours_that_hold_no_voxel_are_told_from_none(tmp_path, contours, is_lost):
    path = save(drawn_as(*contours), tmp_path / "rs.dcm")
    (segment,) = read_structures(path, GRID)

    assert segment.is_lost == is_lost


def test_the_order_of_contours_does_not_matter(tmp_path):
    boxes = [(1, 3, 8, 3, 6), (1, 1, 10, 1, 8)]

    np.testing.assert_array_equal(mask_of(tmp_path, [box(*b) for b in boxes]), expected(*boxes))


def test_several_contours_in_a_slice_are_several_parts(tmp_path):
    boxes = [(0, 1, 3, 1, 3), (0, 6, 9, 5, 8), (3, 2, 4, 2, 4)]

    np.testing.assert_array_equal(mask_of(tmp_path, [box(*b) for b in boxes]), expected(*boxes))


def test_a_keyhole_contour_leaves_its_hole_open(tmp_path):
    outer, inner = box(1, 1, 10, 1, 8), box(1, 3, 8, 3, 6)
    keyhole = [*outer, outer[0], *inner, inner[0], outer[0]]

    np.testing.assert_array_equal(mask_of(tmp_path, [keyhole]), expected((1, 1, 10, 1, 8), (1, 3, 8, 3, 6)))


@given(st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 13)), min_size=3, max_size=8))
def test_any_polygon_is_filled_as_ray_by_ray(corners):
    def crossings(i, j):
        edges = zip(corners, [*corners[1:], corners[0]], strict=True)
        straddling = [(a, b) for a, b in edges if (a[1] > j) != (b[1] > j)]
        return [a[0] + (j - a[1]) * (b[0] - a[0]) / (b[1] - a[1]) for a, b in straddling]

    filled = inside(np.asarray(corners), (10, 12))

    for j, i in np.ndindex(10, 12):
        columns = crossings(i, j)
        if all(abs(column - i) > 1e-6 for column in columns):
            assert filled[j, i] == (sum(column < i for column in columns) % 2 == 1)


def test_a_contour_of_a_hundred_thousand_points_is_filled(tmp_path):
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    points = np.stack(
        [12.5 + 1.4 * np.cos(angle), -17 + 1.4 * np.sin(angle), np.full_like(angle, 33)], axis=1
    )
    i, j = np.meshgrid(np.arange(12), np.arange(10), indexing="ij")
    disc = np.hypot(10 + 0.5 * i - 12.5, -20 + 0.7 * j + 17) < 1.4

    np.testing.assert_array_equal(mask_of(tmp_path, [points])[..., 1], disc)


def test_contours_on_oblique_slices(tmp_path):
    orientation = (0.8, 0.6, 0, -0.36, 0.48, 0.8)
    matrix = np.stack([orientation[:3], orientation[3:], np.cross(orientation[:3], orientation[3:])], axis=1)
    grid = Geometry(GRID.shape, GRID.spacing_mm, tuple(place(0)), tuple(matrix.ravel().tolist()))

    found = mask_of(tmp_path, [box(2, 2, 8, 3, 6, grid)], grid)

    np.testing.assert_array_equal(found, expected((2, 2, 8, 3, 6)))


def test_a_contour_beyond_the_edge_is_cut_there(tmp_path):
    np.testing.assert_array_equal(mask_of(tmp_path, [box(1, 8, 20, 1, 4)]), expected((1, 8, 20, 1, 4)))


def test_points_and_structures_without_contours_hold_no_voxel(tmp_path):
    made = make_structures({"marker": [], "nothing": []})
    made.ROIContourSequence[0].ContourSequence = [make_contour([place(1)], "POINT")]
    del made.ROIContourSequence[1].ContourSequence
    marker, nothing = read_structures(save(made, tmp_path / "rs.dcm"), GRID)

    assert (marker.name, nothing.name) == ("marker", "nothing")
    assert not marker.mask.any()
    assert not nothing.mask.any()


def test_a_contour_that_is_repeated_counts_once(tmp_path):
    found = mask_of(tmp_path, [box(1, 2, 8, 3, 6), box(1, 2, 8, 3, 6)])

    np.testing.assert_array_equal(found, expected((1, 2, 8, 3, 6)))


def test_scraps_of_one_or_two_points_hold_no_voxel(tmp_path):
    found = mask_of(tmp_path, [box(1, 2, 8, 3, 6), box(1, 2, 8, 3, 6)[:1], box(2, 2, 8, 3, 6)[:2]])

    np.testing.assert_array_equal(found, expected((1, 2, 8, 3, 6)))


def test_what_is_not_wanted_may_lie_anywhere(tmp_path):
    made = make_structures({"Couch": [box(-9, 1, 8, 1, 8)], "liver": [box(1, 3, 5, 3, 5)]})
    path = save(made, tmp_path / "rs.dcm")
    (liver,) = read_structures(path, GRID, wanted=lambda name, meaning: name == "liver")

    np.testing.assert_array_equal(liver.mask, expected((1, 3, 5, 3, 5)))


def test_structures_that_overlap_keep_their_masks(tmp_path):
    made = make_structures({"liver": [box(1, 1, 8, 1, 8)], "tumour": [box(1, 3, 5, 3, 5)]})
    liver, tumour = read_structures(save(made, tmp_path / "rs.dcm"), GRID)

    np.testing.assert_array_equal(liver.mask, expected((1, 1, 8, 1, 8)))
    np.testing.assert_array_equal(tumour.mask, expected((1, 3, 5, 3, 5)))


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        (box(1.3, 1, 4, 1, 4), "does not lie in a slice of the image"),
        ([*box(1, 1, 4, 1, 4)[:3], box(2, 1, 4, 1, 4)[3]], "does not lie in a slice of the image"),
        (box(4, 1, 4, 1, 4), "lies where the image has no slice"),
        (box(-1, 1, 4, 1, 4), "lies where the image has no slice"),
        (box(1, 20, 40, 1, 4), "lies outside the image"),
    ],
)
def test_a_contour_that_lies_elsewhere_is_refused(tmp_path, points, fault):
    with pytest.raises(ForeignSegmentationError, match=fault):
        mask_of(tmp_path, [points])


def test_structures_of_another_series_are_refused(tmp_path):
    series = only_series(write_series(tmp_path / "image"))
    made = make_structures({"liver": []})
    change(
        made.ReferencedFrameOfReferenceSequence[0], RTReferencedStudySequence=None, FrameOfReferenceUID="1.9"
    )
    path = save(made, tmp_path / "rs.dcm")

    with pytest.raises(ForeignSegmentationError, match="it lies in another frame of reference"):
        read_structures(path, read_series(series).geometry, drawn_on=series)


# ---- published files ---------------------------------------------------------------------------------------


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def published_mask(patient):
    return read_label(DATA / "sarcoma" / "labels" / f"{patient}.nii.gz", spatial_dims=3, case_id="c1")


def drawn_on(patient, modality):
    found = scan(DATA / "dicom" / "sts" / patient / modality)
    (series,), (drawing,) = found.series, found.structures
    grid = read_series(series).geometry
    (segment,) = read_structures(drawing.files[0], grid, drawn_on=series)
    return segment.mask, grid


@published
@pytest.mark.parametrize("patient", ["STS_001", "STS_002"])
def test_contours_on_mr_equal_the_published_mask(patient):
    mask, grid = drawn_on(patient, "MR_T1")
    expected = published_mask(patient)

    np.testing.assert_allclose(grid.origin_mm, expected.geometry.origin_mm, atol=1e-3)
    assert dice(mask, expected.voxels[0] == 1) >= 0.999


@published
@pytest.mark.parametrize("patient", ["STS_001", "STS_002"])
def test_contours_on_ct_agree_with_the_mask_published_for_mr(patient):
    mask, grid = drawn_on(patient, "CT")
    expected = resample_to(published_mask(patient), grid, is_label=True)

    assert dice(mask, expected.voxels[0] == 1) >= 0.96
