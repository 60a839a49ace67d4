"""Volumes and diameters of boxes and of what is not a box, by hand."""

import math

import numpy as np
import pytest

from medseg_core.imaging.measurements import Measurements, measure
from medseg_core.types import Geometry


def grid(shape: tuple[int, ...], spacing_mm: tuple[float, ...] | None) -> Geometry:
    n = len(shape)
    return Geometry(shape, spacing_mm, (0.0,) * n, tuple(np.eye(n).ravel().tolist()))


def measured(mask: np.ndarray, spacing_mm: tuple[float, ...] | None) -> Measurements:
    return measure(mask.astype(np.uint8), grid(mask.shape, spacing_mm), {"it": 1})["it"]


def test_a_box_has_its_volume_and_its_diagonals() -> None:
    mask = np.zeros((10, 10, 10), bool)
    mask[2:5, 1:5, 3:9] = True  # 3 x 4 x 6 voxels
    found = measured(mask, (2.0, 1.5, 4.0))  # 6 x 6 x 24 mm
    assert found.voxels == 72
    assert found.volume_ml == pytest.approx(0.864)
    assert found.longest_diameter_mm == pytest.approx(math.sqrt(6**2 + 6**2 + 24**2))
    assert found.longest_slice_diameter_mm == pytest.approx(math.sqrt(6**2 + 6**2))


def test_one_voxel_is_as_long_as_its_diagonal() -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    found = measured(mask, (1.0, 1.0, 1.0))
    assert (found.voxels, found.volume_ml) == (1, 0.001)
    assert found.longest_diameter_mm == pytest.approx(math.sqrt(3))
    assert found.longest_slice_diameter_mm == pytest.approx(math.sqrt(2))


def test_two_parts_are_measured_from_end_to_end() -> None:
    mask = np.zeros((20, 5, 5), bool)
    mask[0, 0, 0] = mask[19, 0, 0] = True
    found = measured(mask, (1.0, 1.0, 1.0))
    assert found.longest_diameter_mm == pytest.approx(math.sqrt(20**2 + 1 + 1))
    assert found.longest_slice_diameter_mm == pytest.approx(math.sqrt(20**2 + 1))


def test_the_longest_slice_counts_not_the_largest() -> None:
    mask = np.zeros((12, 12, 3), bool)
    mask[0:6, 0:6, 0] = True  # diagonal 8.49
    mask[0:12, 0:1, 2] = True  # diagonal 12.04
    assert measured(mask, (1.0, 1.0, 9.0)).longest_slice_diameter_mm == pytest.approx(math.sqrt(145))


def test_a_sphere_is_as_long_as_it_is_wide() -> None:
    i, j, k = np.ogrid[:41, :41, :41]
    mask = (i - 20) ** 2 + (j - 20) ** 2 + (k - 20) ** 2 <= 15**2
    found = measured(mask, (1.0, 1.0, 1.0))
    assert found.longest_diameter_mm == pytest.approx(31, abs=1)
    assert found.volume_ml == pytest.approx(4 / 3 * math.pi * 15**3 / 1000, rel=0.01)


def test_what_every_pair_of_corners_gives_is_the_same() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((6, 5, 4)) < 0.1
    spacing = np.array([0.7, 1.1, 3.0])
    corners = np.array([(v + d) * spacing for v in np.argwhere(mask) for d in np.ndindex(2, 2, 2)])
    longest = max(float(np.linalg.norm(a - b)) for a in corners for b in corners)
    assert measured(mask, tuple(spacing.tolist())).longest_diameter_mm == pytest.approx(longest)


def test_what_is_not_there_has_no_length() -> None:
    assert measured(np.zeros((3, 3, 3), bool), (1.0, 1.0, 1.0)) == Measurements(0, 0.0, None, None)


def test_a_picture_without_millimetres_has_voxels_alone() -> None:
    assert measured(np.ones((3, 3), bool), None) == Measurements(9, None, None, None)


def test_a_radiograph_has_a_length_and_no_volume() -> None:
    found = measured(np.ones((3, 4), bool), (1.0, 1.0))
    assert (found.voxels, found.volume_ml) == (12, None)
    assert found.longest_diameter_mm == found.longest_slice_diameter_mm == pytest.approx(5.0)
