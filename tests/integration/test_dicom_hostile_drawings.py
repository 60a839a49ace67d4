"""Broken and hostile SEG and RTSTRUCT: each is a sentence of ours with a remedy."""

from io import BytesIO

import numpy as np
import pytest
from dicom_files import (
    GRID,
    assert_sentence,
    change,
    having,
    items,
    make_contour,
    make_segmentation,
    make_structures,
    place,
    save,
    write_series,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg_core.dicom_errors import DicomError
from medseg_core.imaging.dicom.scan import scan
from medseg_core.imaging.dicom.segmentation import read_segmentation
from medseg_core.imaging.dicom.structures import read_structures
from medseg_core.types import Geometry

# ---- segmentations that are refused -------------------------------------------------------------------------


def frame(n, **groups):
    return lambda made: change(made.PerFrameFunctionalGroupsSequence[n], **groups) and made


BROKEN_SEGMENTATIONS = {
    "no segmentation": (having(SegmentationType=None), "it is no segmentation"),
    "no frames": (
        having(PerFrameFunctionalGroupsSequence=None, SharedFunctionalGroupsSequence=None),
        "its PerFrameFunctionalGroupsSequence is missing",
    ),
    "no segments": (having(SegmentSequence=None), "it describes no segment"),
    "a segment twice": (having(SegmentSequence=[items(SegmentNumber=1)] * 2), "it describes segment 1 twice"),
    "a segment without number": (
        having(SegmentSequence=[items(SegmentLabel="x")]),
        "its SegmentNumber is missing",
    ),
    "a frame of no segment": (
        frame(0, SegmentIdentificationSequence=None),
        "its ReferencedSegmentNumber is missing",
    ),
    "a frame of an unknown segment": (
        frame(0, SegmentIdentificationSequence=[items(ReferencedSegmentNumber=7)]),
        r"its frames show 1 segment\(s\) that it does not describe",
    ),
    "two frames at one place": (
        frame(1, PlanePositionSequence=[items(ImagePositionPatient=place(0))]),
        "two of its frames show one segment in one slice",
    ),
    "a frame without place": (
        frame(1, PlanePositionSequence=None),
        "ImagePositionPatient or ImageOrientation",
    ),
    "a frame between slices": (
        frame(1, PlanePositionSequence=[items(ImagePositionPatient=place(1.5))]),
        "one of its frames lies where the image has no slice",
    ),
    "a frame beyond the image": (
        frame(2, PlanePositionSequence=[items(ImagePositionPatient=place(3))]),
        "one of its frames lies where the image has no slice",
    ),
    "a frame moved sideways": (
        frame(1, PlanePositionSequence=[items(ImagePositionPatient=[10.5, -20, 33])]),
        "one of its frames lies where the image has no slice",
    ),
    "another plane": (
        frame(1, PlaneOrientationSequence=[items(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])]),
        "its frames lie in other planes than the image's slices",
    ),
    "another spacing": (
        frame(1, PixelMeasuresSequence=[items(PixelSpacing=[1, 1])]),
        "its pixels have another spacing than the image's",
    ),
    "another size": (having(Rows=2), "its frames and the image's slices have the sizes 5x2 and 5x4"),
    "too few pixels": (having(PixelData=bytes(4)), "it holds 4 bytes of pixels where its header claims 8"),
    "fractions of nothing": (
        having(SegmentationType="FRACTIONAL", MaximumFractionalValue=0),
        "its MaximumFractionalValue is missing or not positive",
    ),
    "a labelmap with an unknown value": (
        having(
            SegmentationType="LABELMAP",
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            PixelData=bytes(59) + b"\x09",
        ),
        "its pixels show segment 9, which it does not describe",
    ),
}


@pytest.mark.parametrize(("spoil", "fault"), BROKEN_SEGMENTATIONS.values(), ids=BROKEN_SEGMENTATIONS)
def test_a_broken_segmentation_is_refused(tmp_path, spoil, fault):
    path = save(spoil(make_segmentation()), tmp_path / "seg.dcm")

    with pytest.raises(DicomError) as refusal:
        read_segmentation(path, GRID)
    assert_sentence(refusal.value, fault)


def test_a_segmentation_that_names_itself_as_its_source_is_of_no_series(tmp_path):
    write_series(tmp_path / "image", 3)
    path = save(make_segmentation(), tmp_path / "seg.dcm")
    found = scan(tmp_path)

    assert found.segmentations[0].referenced_series_uids == ("1.2.3.6",)
    with pytest.raises(DicomError) as refusal:
        read_segmentation(path, GRID, drawn_on=found.series[0])
    assert_sentence(refusal.value, "it was drawn on another series")


def test_a_segmentation_of_an_xray_is_flat(tmp_path):
    made = make_segmentation(
        NumberOfFrames=1, PixelData=b"\x06\x80\x01\0", SharedFunctionalGroupsSequence=[items()]
    )
    identified = [items(ReferencedSegmentNumber=1)]
    made.PerFrameFunctionalGroupsSequence = [items(SegmentIdentificationSequence=identified)]
    flat = Geometry((5, 4), (0.5, 0.7), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
    (segment,) = read_segmentation(save(made, tmp_path / "seg.dcm"), flat)

    assert np.argwhere(segment.mask.T).tolist() == [[0, 1], [0, 2], [3, 0], [3, 1]]  # (row, column)


def test_structures_lie_in_no_xray(tmp_path):
    path = save(make_structures({"liver": [SQUARE]}), tmp_path / "rs.dcm")

    with pytest.raises(DicomError) as refusal:
        read_structures(path, Geometry((5, 4), None, (0.0, 0.0), (1.0, 0.0, 0.0, 1.0)))
    assert_sentence(refusal.value, "it lies in space, and the image is a flat picture")


def test_more_segments_than_memory_are_refused(tmp_path):
    described = [items(SegmentNumber=n) for n in range(1, 3000)]
    path = save(make_segmentation(SegmentSequence=described, Rows=4), tmp_path / "seg.dcm")
    grid = Geometry((5, 4, 2**20), (0.5, 0.7, 3.0), GRID.origin_mm, GRID.direction)

    with pytest.raises(DicomError) as refusal:
        read_segmentation(path, grid)
    assert_sentence(refusal.value, "its 2999 segments are more than can be held at this size")


# ---- structures that are refused ----------------------------------------------------------------------------

SQUARE = [[10, -20, 30], [12, -20, 30], [12, -18, 30], [10, -18, 30]]


def contour(**attributes):
    def spoil(made):
        made.ROIContourSequence[0].ContourSequence = [change(make_contour(SQUARE), **attributes)]
        return made

    return spoil


BROKEN_STRUCTURES = {
    "no structures": (having(StructureSetROISequence=None), "it is no set of structures"),
    "an empty set": (having(StructureSetROISequence=[]), "it names no structure"),
    "a structure twice": (
        having(StructureSetROISequence=[items(ROINumber=1), items(ROINumber=1)]),
        "it names structure 1 twice",
    ),
    "a structure without number": (
        having(StructureSetROISequence=[items(ROIName="x")]),
        "its ROINumber is missing",
    ),
    "contours of nobody": (
        having(ROIContourSequence=[items(ReferencedROINumber=9)]),
        "it has contours of a structure that it does not name",
    ),
    "contours of words": (contour(ContourData=b"a\\" * 12), "its contours are not numbers"),
    "a contour with NaN": (
        contour(ContourData=b"\\".join([b"nan"] * 12)),
        "one of its contours is no polygon",
    ),
    "a contour of ten numbers": (contour(ContourData=[0] * 10), "one of its contours is no polygon"),
    "a contour without points": (contour(ContourData=None), "one of its contours is no polygon"),
    "fewer points than claimed": (
        contour(NumberOfContourPoints=5),
        "one of its contours has 4 points and claims 5",
    ),
    "a contour far away": (
        contour(ContourData=["1e30", "1e30", "1e30"] * 4),
        "one of its contours lies where the image has no slice|does not lie in a slice",
    ),
}


@pytest.mark.parametrize(("spoil", "fault"), BROKEN_STRUCTURES.values(), ids=BROKEN_STRUCTURES)
def test_a_broken_set_of_structures_is_refused(tmp_path, spoil, fault):
    path = save(spoil(make_structures({"liver": [SQUARE]})), tmp_path / "rs.dcm")

    with pytest.raises(DicomError) as refusal:
        read_structures(path, GRID)
    assert_sentence(refusal.value, fault)


def test_structures_that_refer_to_each_other_in_a_circle_are_read(tmp_path):
    made = make_structures({"liver": [SQUARE], "rim": []})
    for n, other in ((0, 2), (1, 1)):
        made.StructureSetROISequence[n].RTRelatedROISequence = [items(ReferencedROINumber=other)]
    liver, _ = read_structures(save(made, tmp_path / "rs.dcm"), GRID)

    assert liver.mask.any()


# ---- any byte ----------------------------------------------------------------------------------------------


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_any_changed_byte_of_a_drawing_is_a_sentence_or_masks(tmp_path, changes, is_segmentation):
    out = BytesIO()
    made = make_segmentation() if is_segmentation else make_structures({"liver": [SQUARE]})
    made.save_as(out, enforce_file_format=True)
    data = bytearray(out.getvalue())
    for share, value in changes:
        data[132 + int(share * (len(data) - 133))] = value
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    read = read_segmentation if is_segmentation else read_structures
    try:
        segments = read(path, GRID)
    except DicomError as error:
        assert_sentence(error, "")
    else:
        assert {one.mask.shape for one in segments} == {GRID.shape}
