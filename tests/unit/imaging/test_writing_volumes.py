"""A label map written is the label map read, on the same grid; a failed write leaves nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as npst
from volume_files import make_volume

from medseg_core.errors import UnusableFolderError
from medseg_core.imaging.io import read_image, read_label, write_image, write_label
from medseg_core.types import Geometry

LABELS = (np.arange(60).reshape(3, 4, 5) % 4).astype(np.uint8)
GRID = Geometry(
    (3, 4, 5), (0.5, 1.0, 2.0), (10.0, -20.0, 30.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_label_survives_writing(tmp_path, suffix):
    write_label(tmp_path / "new" / f"a{suffix}", LABELS, GRID)
    volume = read_label(tmp_path / "new" / f"a{suffix}", spatial_dims=3, case_id="c1")
    np.testing.assert_array_equal(volume.voxels[0], LABELS)
    assert volume.voxels.dtype == np.uint8
    assert volume.geometry.spacing_mm == pytest.approx(GRID.spacing_mm)
    assert volume.geometry.origin_mm == pytest.approx(GRID.origin_mm)
    assert volume.geometry.direction == pytest.approx(GRID.direction, abs=1e-6)
    assert [p.name for p in (tmp_path / "new").iterdir()] == [f"a{suffix}"]


@settings(deadline=None, max_examples=30)
@given(npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)))
def test_flat_label_without_millimetres_survives_as_png(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("png") / "a.png"
    write_label(path, labels, make_volume(labels.shape, None, voxels=labels[None]).geometry)
    volume = read_label(path, spatial_dims=2, case_id="c1")
    np.testing.assert_array_equal(volume.voxels[0], labels)
    assert volume.geometry.spacing_mm is None


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_image_keeps_its_number_type(tmp_path, dtype):
    path = tmp_path / "a.nii.gz"
    write_image(path, LABELS.astype(dtype), GRID)
    np.testing.assert_array_equal(
        read_image(path, spatial_dims=3, channels=1, case_id="c1").voxels[0], LABELS
    )


def test_failed_write_leaves_nothing_and_says_where(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UnusableFolderError, match="Choose another folder"):
        write_label(tmp_path / "file" / "a.nii.gz", LABELS, GRID)
    with pytest.raises(UnusableFolderError, match=r"a\.strange could not be written"):
        write_label(tmp_path / "a.strange", LABELS, GRID)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
