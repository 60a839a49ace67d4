"""Every kind of file in the published sets is read; counts checked by Pillow or by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg_core.imaging.io import read_image, read_label

DATA = Path(__file__).parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published sets are not at {DATA}")


def image_of(name, dims, channels):
    return read_image(DATA / name, spatial_dims=dims, channels=channels, case_id="c1")


@pytest.mark.parametrize(
    ("image", "label", "shape"),
    [
        ("retina/DRIVE/images/21_training.tif", "retina/DRIVE/labels/21_manual1.gif", (565, 584)),
        ("retina/CHASE/images/Image_01L.jpg", "retina/CHASE/labels/Image_01L_1stHO.png", (999, 960)),
        ("retina/STARE/images/im0001.ppm", "retina/STARE/labels/im0001.vk.ppm", (700, 605)),
    ],
)
def test_fundus_photograph_and_vessel_mask(image, label, shape):
    volume = image_of(image, 2, 3)
    assert volume.geometry.shape == shape
    assert volume.geometry.spacing_mm is None
    with Image.open(DATA / image) as picture:
        np.testing.assert_array_equal(volume.voxels, np.asarray(picture).transpose(2, 1, 0))
    mask = read_label(DATA / label, spatial_dims=2, case_id="c1")
    assert mask.geometry.shape == shape
    assert np.unique(mask.voxels).tolist() == [0, 255]
    with Image.open(DATA / label) as picture:
        assert np.count_nonzero(mask.voxels) == np.count_nonzero(np.asarray(picture))


def test_cine_slice_saved_in_colour_is_one_channel():
    name = "SC-HF-I-01-IM-0001-0048.png"
    assert image_of(f"cardiac/images/{name}", 2, 1).voxels.shape == (1, 256, 256)
    mask = read_label(DATA / "cardiac" / "labels" / name, spatial_dims=2, case_id="c1")
    assert np.unique(mask.voxels).tolist() == [0, 255]


def test_hippocampus_label_of_floating_point_numbers():
    image = image_of("hippocampus/imagesTr/hippocampus_003.nii.gz", 3, 1)
    label = read_label(DATA / "hippocampus/labelsTr/hippocampus_003.nii.gz", spatial_dims=3, case_id="c1")
    assert image.geometry == label.geometry
    assert image.geometry.direction == (-1, 0, 0, 0, -1, 0, 0, 0, 1)  # RAS in the file, LPS here
    assert np.unique(label.voxels).tolist() == [0, 1, 2]


def test_sarcoma_keeps_its_thick_slices():
    image = image_of("sarcoma/images/STS_001_t1.nii.gz", 3, 1)
    assert image.geometry.shape == (174, 158, 59)
    assert image.geometry.spacing_mm == pytest.approx((0.9766, 0.9766, 3.26995), rel=1e-4)


@pytest.mark.parametrize("path", sorted((DATA / "dicom" / "seg").rglob("*.nrrd")), ids=lambda p: p.stem)
def test_nrrd_segmentations(path):
    label = read_label(path, spatial_dims=3, case_id="c1")
    assert label.voxels.any()
    assert len(np.unique(label.voxels)) < 10
