"""DICOM SEG of every kind becomes the mask that was drawn, on the grid of its image."""

from pathlib import Path

import highdicom
import numpy as np
import pytest
from dicom_files import change, only_series, write_series
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from medseg_core.dicom_errors import ForeignSegmentationError
from medseg_core.imaging.dicom.scan import scan
from medseg_core.imaging.dicom.segmentation import read_segmentation
from medseg_core.imaging.dicom.series import read_series, read_slices
from medseg_core.imaging.io import read_label

DATA = Path(__file__).parents[4] / "shared" / "data" / "dicom" / "seg"
published = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published sets are not at {DATA}")

N = 4


def write_segmentation(folder, masks, kind, **options):
    """A SEG of masks `(k, row, column, segment)` on a series of four slices; returns the image's grid and the file."""
    pixels = np.zeros(masks.shape[1:3], np.int16)
    series = only_series(write_series(folder / "image", N, pixels=pixels))
    order = {one.sop_instance_uid: k for k, one in enumerate(read_slices(series).references)}
    sources = sorted((dcmread(path) for path in series.files), key=lambda made: order[made.SOPInstanceUID])
    blank = dict.fromkeys(
        ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
         "ReferringPhysicianName"), ""
    )  # fmt: skip
    for k, made in enumerate(sources):  # what highdicom copies from its source
        change(made, InstanceNumber=k + 1, **blank)
    algorithm = highdicom.AlgorithmIdentificationSequence("test", codes.DCM.ArtificialIntelligence, "1")
    described = [
        highdicom.seg.SegmentDescription(
            n, name, codes.SCT.Organ, code, highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm
        )
        for n, (name, code) in enumerate([("Liver", codes.SCT.Liver), ("lesion", codes.SCT.Lesion)], start=1)
    ][: masks.shape[-1] if masks.ndim == 4 else 2]
    made = highdicom.seg.Segmentation(
        sources, masks, kind, described, highdicom.UID(), 1, highdicom.UID(), 1, "m", "m", "1", "1",
        transfer_syntax_uid=ExplicitVRLittleEndian, **options,
    )  # fmt: skip
    made.save_as(folder / "seg.dcm")
    return read_series(series).geometry, folder / "seg.dcm"


def masks_of_two():
    """Two segments that overlap; slices 0 and 3 show nothing."""
    masks = np.zeros((N, 4, 5, 2), np.uint8)
    masks[1, 1:3, 0:4, 0] = 1
    masks[2, 0:4, 2, 0] = 1
    masks[1, 2:4, 3:5, 1] = 1
    return masks


def assert_masks(segments, masks):
    assert [one.number for one in segments] == list(range(1, masks.shape[-1] + 1))
    for segment, drawn in zip(segments, np.moveaxis(masks, -1, 0), strict=True):
        np.testing.assert_array_equal(segment.mask, drawn.astype(bool).T)


@pytest.mark.parametrize("is_sparse", [True, False])
def test_binary_segments_that_overlap_keep_their_masks(tmp_path, is_sparse):
    masks = masks_of_two()
    grid, path = write_segmentation(tmp_path, masks, "BINARY", omit_empty_frames=is_sparse)

    assert_masks(read_segmentation(path, grid), masks)


@pytest.mark.parametrize("size", [(7, 9), (3, 5)])  # frames of 63 and of 15 bits
def test_binary_frames_that_begin_within_a_byte_keep_their_pixels(tmp_path, size):
    masks = np.random.default_rng(0).integers(0, 2, (N, *size, 2), np.uint8)
    grid, path = write_segmentation(tmp_path, masks, "BINARY")

    assert_masks(read_segmentation(path, grid), masks)


def test_segments_have_names_and_codes(tmp_path):
    grid, path = write_segmentation(tmp_path, masks_of_two(), "BINARY")
    liver, lesion = read_segmentation(path, grid)

    assert (liver.name, lesion.name) == ("Liver", "lesion")
    assert (liver.type.value, liver.type.scheme, liver.type.meaning) == ("10200004", "SCT", "Liver")
    assert "Liver" not in repr(liver)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_only_segments_that_are_wanted_are_read(tmp_path, kind):
    masks = masks_of_two()
    masks[..., 0] &= 1 - masks[..., 1]
    drawn = masks if kind == "BINARY" else masks[..., 0] + 2 * masks[..., 1]
    grid, path = write_segmentation(tmp_path, drawn, kind)
    (lesion,) = read_segmentation(path, grid, wanted=lambda name, meaning: meaning == "Lesion")

    np.testing.assert_array_equal(lesion.mask, masks[..., 1].astype(bool).T)


def test_a_fractional_segment_counts_from_one_half_on(tmp_path):
    masks = np.zeros((N, 4, 5, 1))
    masks[2, 1, :, 0] = [0.0, 0.49, 0.5, 0.51, 1.0]
    grid, path = write_segmentation(
        tmp_path, masks, "FRACTIONAL", fractional_type="PROBABILITY", max_fractional_value=100
    )

    assert_masks(read_segmentation(path, grid), masks >= 0.5)


def test_a_labelmap_has_a_mask_for_each_of_its_values(tmp_path):
    masks = masks_of_two()
    masks[..., 0] &= 1 - masks[..., 1]
    grid, path = write_segmentation(tmp_path, masks[..., 0] + 2 * masks[..., 1], "LABELMAP")

    assert_masks(read_segmentation(path, grid), masks)


def test_a_segmentation_knows_what_it_was_drawn_on(tmp_path):
    grid, path = write_segmentation(tmp_path, masks_of_two(), "BINARY")
    found = scan(tmp_path)

    assert found.segmentations[0].referenced_series_uids == (found.series[0].series_uid,)
    assert read_segmentation(path, grid, drawn_on=found.series[0])


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({"PatientID": "P2"}, "it is of another patient than the image"),
        ({"FrameOfReferenceUID": "1.9"}, "it lies in another frame of reference than the image"),
        ({"ReferencedSeriesSequence": None, "FrameOfReferenceUID": "1.9"}, "another frame of reference"),
    ],
)
def test_a_segmentation_of_another_image_is_refused(tmp_path, attributes, fault):
    grid, path = write_segmentation(tmp_path, masks_of_two(), "BINARY")
    change(dcmread(path), **attributes).save_as(path)

    with pytest.raises(ForeignSegmentationError, match=fault) as refusal:
        read_segmentation(path, grid, drawn_on=scan(tmp_path).series[0])
    assert "Choose the segmentation that was drawn on this series" in refusal.value.remedy


# ---- published files, against the same masks as NRRD --------------------------------------------------------


def published_grid(folder):
    return read_series(only_series(DATA / folder)).geometry


def published_twin(name):
    return read_label(DATA / name, spatial_dims=3, case_id="c1").voxels[0]


@published
@pytest.mark.parametrize(
    ("image", "seg", "twin"),
    [
        ("ct-3slice", "liver.dcm", "liver_seg.nrrd"),
        ("23x38x3/image", "23x38x3/seg/label.seg", "23x38x3/nrrd/label.nrrd"),
        ("23x38x3/multiframe", "23x38x3/seg/label.seg", "23x38x3/nrrd/label.nrrd"),
        ("24x38x3/image", "24x38x3/seg/label.seg", "24x38x3/nrrd/label.nrrd"),
        ("24x38x3/multiframe", "24x38x3/seg/label.seg", "24x38x3/nrrd/label.nrrd"),
        ("24x38x3/image", "sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd"),
        ("24x38x3/image", "sparse-labelmap-ppv5.dcm", "sparse_labelmap_ppv5_seg.nrrd"),
    ],
)
def test_a_published_segmentation_equals_its_twin(image, seg, twin):
    (segment,) = read_segmentation(DATA / seg, published_grid(image))
    expected = published_twin(twin)

    assert segment.name == "Liver"
    np.testing.assert_array_equal(segment.mask, expected == 1)


@published
def test_published_segments_that_overlap_equal_their_twins():
    segments = read_segmentation(DATA / "partial_overlaps.dcm", published_grid("ct-3slice"))
    drawn = [published_twin(f"partial_overlaps-{n}.nrrd") for n in (1, 2, 3)]
    twins = {value: layer == value for layer in drawn for value in np.unique(layer).tolist() if value}

    assert [one.number for one in segments] == sorted(twins) == [1, 2, 3, 4, 5]
    for segment in segments:
        np.testing.assert_array_equal(segment.mask, twins[segment.number])
