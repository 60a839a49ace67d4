"""Broken and hostile DICOM: each is a sentence of ours with a remedy, and none costs memory."""

import re
import struct
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from dicom_files import (
    change,
    items,
    make_contour,
    make_enhanced,
    make_slice,
    make_structures,
    only_series,
    place,
    save,
    stored,
    write_series,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SegmentationStorage,
)

from medseg_core.dicom_errors import DicomError
from medseg_core.imaging.dicom import headers
from medseg_core.imaging.dicom.scan import scan
from medseg_core.imaging.dicom.segmentation import read_segmentation
from medseg_core.imaging.dicom.series import read_series
from medseg_core.imaging.dicom.structures import read_structures
from medseg_core.types import Geometry

GRID = Geometry((5, 4, 3), (0.5, 0.7, 3.0), (10.0, -20.0, 30.0), tuple(np.eye(3).ravel()))
FOREIGN_WORDS = re.compile(r"pydicom|gdcm|Traceback|Error|0x|\(\d{4},", re.IGNORECASE)


def assert_sentence(error, fault):
    """What, where, what to do; no words of a library and, beside `where`, no path or identifier."""
    assert re.search(fault, error.fault), error.fault
    assert str(error) == f"{error.where}: {error.fault}. {error.remedy}."
    assert error.remedy[0].isupper()
    for told in (error.fault, error.remedy):
        assert not FOREIGN_WORDS.search(told)
        assert "/" not in told.replace("Bq/mL", "")
        assert "1.2.3" not in told


# ---- files that a scan leaves out ---------------------------------------------------------------------------


def whole():
    out = BytesIO()
    make_slice(0).save_as(out, enforce_file_format=True)
    return out.getvalue()


def nested(depth):
    """A file with sequences within sequences."""
    inside = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + b"\xff\xff\xff\xff" + inside + b"\xfe\xff\x0d\xe0" + bytes(4)
        inside = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0" + bytes(4)
    at = whole().index(b"\x08\x00\x60\x00CS")  # Modality, behind the sequence
    return whole()[:at] + inside + whole()[at:]


def deflated(n_zero_bytes):
    """A deflated file with a private element of zeros, which pack a thousandfold."""
    made = make_slice(0)
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    out = BytesIO()
    made.save_as(out, enforce_file_format=True)
    head = out.getvalue()
    start = 144 + struct.unpack("<I", head[140:144])[0]
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = zlib.decompress(head[start:], wbits=-zlib.MAX_WBITS)
    body += b"\xff\xff\x10\x00UN\x00\x00" + struct.pack("<I", n_zero_bytes)
    packed = packer.compress(body)
    for _ in range(0, n_zero_bytes, 2**20):
        packed += packer.compress(bytes(2**20))
    return head[:start] + packed + packer.flush()


BROKEN_FILES = {
    "bytes that are no DICOM": (lambda: b"\x89PNG" + bytes(500), "it is not a DICOM file"),
    "a text of four letters": (lambda: b"DICM", "it is not a DICOM file"),
    "nothing but the mark": (
        lambda: bytes(128) + b"DICM",
        "it lacks|its TransferSyntaxUID is missing|holds no image",
    ),
    "noise behind the mark": (
        lambda: bytes(128) + b"DICM" + np.random.default_rng(0).bytes(999),
        "damaged|missing",
    ),
    "cut in the header": (lambda: whole()[:300], "damaged|lacks|holds no image"),
    "an element longer than the file": (
        lambda: whole()[:400] + b"\x09\x00\x02\x10UN\x00\x00\xf0\xff\xff\x7f",
        "damaged|lacks",
    ),
    "sequences within sequences": (lambda: nested(5000), "it is damaged or cut short"),
    "a deflated file cut short": (lambda: deflated(10)[:400], "it is damaged or cut short"),
    "a deflate bomb": (lambda: deflated(2**25), "it unpacks to more than 16 MiB"),
}


@pytest.mark.parametrize(("data", "fault"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_file_is_left_out(tmp_path, monkeypatch, data, fault):
    monkeypatch.setattr(headers, "MAX_INFLATED_BYTES", 2**24)
    (tmp_path / "a.dcm").write_bytes(data())
    save(make_slice(1), tmp_path / "good.dcm")
    found = scan(tmp_path)

    assert [one.path.name for one in found.left_out] == ["a.dcm"]
    assert re.search(fault, found.left_out[0].reason), found.left_out[0].reason
    assert [len(one.files) for one in found.series] == [1]


# ---- series that are refused --------------------------------------------------------------------------------


def with_syntax(made, syntax):
    made.file_meta.TransferSyntaxUID = syntax


def compressed(made, data, syntax):
    with_syntax(made, syntax)
    made.PixelData = encapsulate([data])
    made["PixelData"].is_undefined_length = True


def jpeg(columns, rows, kind="JPEG2000"):
    out = BytesIO()
    Image.new("L", (columns, rows)).save(out, format=kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
    return out.getvalue()


def set_(**attributes):
    return lambda made: change(made, **attributes)


BROKEN_SLICES = {
    "pixels cut short": (set_(PixelData=bytes(30)), "it holds 30 bytes of pixels where its header claims 40"),
    "pixels too many": (set_(PixelData=bytes(44)), "it holds 44 bytes of pixels where its header claims 40"),
    "no pixels": (set_(PixelData=None), "it has no pixels"),
    "zero rows": (set_(Rows=0), "its Rows is 0"),
    "no columns": (set_(Columns=None), "its Columns is missing"),
    "absurd size": (set_(Rows=65535, Columns=65535), "it claims 65535x65535x1 pixels, more than can be held"),
    "twelve bits allocated": (set_(BitsAllocated=12), "bytes of pixels where its header claims 30"),
    "NaN spacing": (set_(PixelSpacing=b"nan\\0.5 "), "its PixelSpacing is NaN or infinite"),
    "infinite spacing": (set_(PixelSpacing=b"inf\\0.5 "), "its PixelSpacing is NaN or infinite"),
    "negative spacing": (set_(PixelSpacing=[-0.7, 0.5]), "its PixelSpacing is -0.7 x 0.5 mm"),
    "zero spacing": (set_(PixelSpacing=[0, 0]), "its PixelSpacing is 0 x 0 mm"),
    "three spacings": (set_(PixelSpacing=[1, 1, 1]), r"its PixelSpacing has 3 number\(s\) where 2 belong"),
    "words for spacing": (set_(PixelSpacing=b"one\\two "), "its PixelSpacing is not a number"),
    "no spacing": (set_(PixelSpacing=None), "its PixelSpacing is missing"),
    "no position": (set_(ImagePositionPatient=None), "its ImagePositionPatient is missing"),
    "NaN position": (set_(ImagePositionPatient=b"nan\\0\\0 "), "its ImagePositionPatient is NaN or infinite"),
    "no orientation": (set_(ImageOrientationPatient=None), "its ImageOrientationPatient is missing"),
    "no direction": (set_(ImageOrientationPatient=[0] * 6), "its ImageOrientationPatient is not two unit vectors"),
    "skewed axes": (
        set_(ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]),
        "its ImageOrientationPatient is not two unit vectors at right angles",
    ),
    "slope of zero": (set_(RescaleSlope=0), "its RescaleSlope is 0"),
    "NaN slope": (set_(RescaleSlope=b"nan "), "its RescaleSlope is NaN or infinite"),
    "values beyond float32": (set_(RescaleSlope=1e300), "its rescaled values are beyond what can be held"),
    "a table of values": (set_(ModalityLUTSequence=[items()]), r"its values follow from a table \(modality LUT\)"),
    "a film without places": (set_(NumberOfFrames=3), "it is a film of several frames without a place of their own"),
    "video": (lambda made: compressed(made, b"1234", MPEG2MPML), r"its compression \(transfer syntax\) is not read"),
    "an unknown compression": (
        lambda made: compressed(made, b"1234", HTJ2KLossless),
        r"its compression \(transfer syntax\) is not read",
    ),
    "noise instead of RLE": (lambda made: compressed(made, bytes(range(100)), RLELossless), "cannot be decoded as its"),
    "noise instead of JPEG 2000": (
        lambda made: compressed(made, bytes(range(100)), JPEG2000Lossless),
        "cannot be decoded as its",
    ),
    "JPEG 2000 larger than its header says": (
        lambda made: compressed(made, jpeg(3000, 2000), JPEG2000Lossless),
        "its compressed pixels have another size than its header says",
    ),
    "JPEG larger than its header says": (
        lambda made: compressed(made, jpeg(3000, 2000, "JPEG"), JPEGBaseline8Bit),
        "its compressed pixels have another size than its header says",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "fault"), BROKEN_SLICES.values(), ids=BROKEN_SLICES)
def test_a_series_of_broken_slices_is_refused(tmp_path, spoil, fault):
    write_series(tmp_path, 3, alter=lambda k, made: spoil(made))
    found = scan(tmp_path)
    if found.left_out:  # the header alone tells
        assert re.search(fault, found.left_out[0].reason), found.left_out[0].reason
        return
    with pytest.raises(DicomError) as refusal:
        read_series(found.series[0])

    assert_sentence(refusal.value, fault)


@pytest.mark.parametrize(
    ("syntax", "fault"),
    [
        (b"1.2.840.10008.1.2.4.90", "damaged|cannot be decoded as its header says"),
        (b"1.2.840.10008.1.2.4.50", "damaged|cannot be decoded as its header says"),
        (b"1.2.840.10008.1.2.5\0\0\0", "damaged|cannot be decoded as its header says"),
        (b"1.2.840.10008.1.2.2\0\0\0", "damaged|missing|lacks|holds no image"),  # big endian
        (b"1.2.840.10008.1.2\0\0\0\0\0", "damaged|missing|lacks|holds no image|is not|has"),  # implicit VR
        (b"1.2.840.10008.1.9.9.99", "."),
    ],
)
def test_another_transfer_syntax_than_the_bytes_have_is_refused(tmp_path, syntax, fault):
    plain, other = b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI" + struct.pack("<H", len(syntax)) + syntax
    grown = struct.pack("<I", struct.unpack("<I", whole()[140:144])[0] + len(other) - len(plain))
    data = whole().replace(plain, other, 1)
    (tmp_path / "a.dcm").write_bytes(data[:140] + grown + data[144:])
    found = scan(tmp_path)
    if found.left_out:
        assert re.search(fault, found.left_out[0].reason), found.left_out[0].reason
        return
    try:
        volume = read_series(found.series[0])
    except DicomError as error:
        assert_sentence(error, fault)
    else:  # pydicom saw through it
        np.testing.assert_array_equal(volume.voxels[0, ..., 0], stored(0).T)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_compressed_pixels_are_a_sentence_or_an_image_and_end_no_process(tmp_path, seed):
    rng = np.random.default_rng(seed)
    made = make_slice(pixels=rng.integers(0, 4000, (64, 64)).astype(np.uint16))
    made.compress(JPEGLSLossless, generate_instance_uid=False)
    path = save(made, tmp_path / "a.dcm")
    data = bytearray(path.read_bytes())
    for at in rng.integers(data.rindex(b"\xff\xd8") + 20, len(data) - 20, 3):
        data[at] ^= 0xFF
    path.write_bytes(data)

    try:
        read_series(only_series(tmp_path))
    except DicomError as error:
        assert_sentence(error, "its pixels cannot be decoded as its header says")


def test_a_decoder_that_crashes_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    write_series(tmp_path, 1, alter=lambda k, made: made.compress(RLELossless, generate_instance_uid=False))

    with pytest.raises(DicomError) as refusal:
        read_series(only_series(tmp_path))
    assert_sentence(refusal.value, "its pixels cannot be decoded as its header says")


BROKEN_ENHANCED = {
    "more frames than places": (set_(NumberOfFrames=4), r"has 3 item\(s\) where 4 frames are claimed"),
    "absurdly many frames": (
        set_(NumberOfFrames=2**31 - 1),
        "it claims 5x4x2147483647 pixels, more than can be held",
    ),
    "frames below zero": (set_(NumberOfFrames=-1), "its NumberOfFrames is -1"),
    "frames without places": (
        set_(PerFrameFunctionalGroupsSequence=[items() for _ in range(3)]),
        "its ImagePositionPatient is missing",
    ),
    "no frames of their own": (
        set_(PerFrameFunctionalGroupsSequence=None),
        r"has 0 item\(s\) where 3 frames",
    ),
    "fewer pixels than frames": (
        set_(PixelData=bytes(80)),
        "it holds 80 bytes of pixels where its header claims 120",
    ),
}


@pytest.mark.parametrize(("spoil", "fault"), BROKEN_ENHANCED.values(), ids=BROKEN_ENHANCED)
def test_a_broken_enhanced_file_is_refused(tmp_path, spoil, fault):
    save(spoil(make_enhanced(3)), tmp_path / "a.dcm")

    with pytest.raises(DicomError) as refusal:
        read_series(only_series(tmp_path))
    assert_sentence(refusal.value, fault)


def test_a_file_that_changed_since_it_was_found_is_refused(tmp_path):
    series = only_series(write_series(tmp_path, 2))
    save(make_slice(0, SeriesInstanceUID="1.2.3.99"), series.files[0])

    with pytest.raises(DicomError) as refusal:
        read_series(series)
    assert_sentence(refusal.value, "it is of another series than when it was found")


def test_a_file_that_vanished_is_refused(tmp_path):
    series = only_series(write_series(tmp_path, 2))
    series.files[0].unlink()

    with pytest.raises(DicomError) as refusal:
        read_series(series)
    assert_sentence(refusal.value, "the file is not there")


def test_private_tags_of_any_size_change_nothing(tmp_path):
    def hide(k, made):
        block = made.private_block(0x0011, "SECRET", create=True)
        block.add_new(0x01, "OB", bytes(2**21))
        block.add_new(0x02, "SQ", [items(PatientID="other", PixelSpacing=b"nan\\nan ")])

    volume = read_series(only_series(write_series(tmp_path, 3, alter=hide)))

    np.testing.assert_array_equal(volume.voxels[0, ..., 2], stored(2).T)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(132, 1000), st.integers(0, 255)), min_size=1, max_size=4), st.booleans()
)
def test_any_changed_byte_is_a_sentence_or_an_image(tmp_path, changes, is_enhanced):
    out = BytesIO()
    (make_enhanced(3) if is_enhanced else make_slice(0)).save_as(out, enforce_file_format=True)
    data = bytearray(out.getvalue())
    for at, value in changes:
        data[at % len(data)] = value
    (tmp_path / "a.dcm").write_bytes(data)
    found = scan(tmp_path)

    assert len(found.series) + len(found.segmentations) + len(found.structures) + len(found.left_out) == 1
    for series in found.series:
        try:
            read_series(series)
        except DicomError as error:
            assert_sentence(error, "")


# ---- segmentations that are refused -------------------------------------------------------------------------


def make_segmentation(**attributes):
    """A binary SEG of one segment in three slices."""
    made = make_enhanced(order=[0, 1, 2])
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SegmentationStorage
    made.Modality, made.SeriesInstanceUID, made.SOPInstanceUID = "SEG", "1.2.3.6", "1.2.3.6.1"
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = made.PixelRepresentation = 0
    made.PixelData = bytes(8)
    made.SegmentationType = "BINARY"
    made.SegmentSequence = [items(SegmentNumber=1, SegmentLabel="liver")]
    for group in made.PerFrameFunctionalGroupsSequence:
        group.SegmentIdentificationSequence = [items(ReferencedSegmentNumber=1)]
    made.ReferencedSeriesSequence = [items(SeriesInstanceUID="1.2.3.6")]  # itself: a circle
    return change(made, **attributes)


def frame(n, **groups):
    return lambda made: change(made.PerFrameFunctionalGroupsSequence[n], **groups) and made


BROKEN_SEGMENTATIONS = {
    "no segmentation": (set_(SegmentationType=None), "it is no segmentation"),
    "no frames": (
        set_(PerFrameFunctionalGroupsSequence=None, SharedFunctionalGroupsSequence=None),
        "its PerFrameFunctionalGroupsSequence is missing",
    ),
    "no segments": (set_(SegmentSequence=None), "it describes no segment"),
    "a segment twice": (set_(SegmentSequence=[items(SegmentNumber=1)] * 2), "it describes segment 1 twice"),
    "a segment without number": (set_(SegmentSequence=[items(SegmentLabel="x")]), "its SegmentNumber is missing"),
    "a frame of no segment": (frame(0, SegmentIdentificationSequence=None), "its ReferencedSegmentNumber is missing"),
    "a frame of an unknown segment": (
        frame(0, SegmentIdentificationSequence=[items(ReferencedSegmentNumber=7)]),
        r"its frames show 1 segment\(s\) that it does not describe",
    ),
    "two frames at one place": (
        frame(1, PlanePositionSequence=[items(ImagePositionPatient=place(0))]),
        "two of its frames show one segment in one slice",
    ),
    "a frame without place": (frame(1, PlanePositionSequence=None), "ImagePositionPatient or ImageOrientation"),
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
    "another size": (set_(Rows=2), "its frames and the image's slices have the sizes 5x2 and 5x4"),
    "too few pixels": (set_(PixelData=bytes(4)), "it holds 4 bytes of pixels where its header claims 8"),
    "fractions of nothing": (
        set_(SegmentationType="FRACTIONAL", MaximumFractionalValue=0),
        "its MaximumFractionalValue is missing or not positive",
    ),
    "a labelmap with an unknown value": (
        set_(SegmentationType="LABELMAP", BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=bytes(59) + b"\x09"),
        "its pixels show segment 9, which it does not describe",
    ),
}  # fmt: skip


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
    "no structures": (set_(StructureSetROISequence=None), "it is no set of structures"),
    "an empty set": (set_(StructureSetROISequence=[]), "it names no structure"),
    "a structure twice": (
        set_(StructureSetROISequence=[items(ROINumber=1), items(ROINumber=1)]),
        "it names structure 1 twice",
    ),
    "a structure without number": (
        set_(StructureSetROISequence=[items(ROIName="x")]),
        "its ROINumber is missing",
    ),
    "contours of nobody": (
        set_(ROIContourSequence=[items(ReferencedROINumber=9)]),
        "it has contours of a structure that it does not name",
    ),
    "contours of words": (contour(ContourData=b"a\\" * 12), "its contours are not numbers"),
    "a contour with NaN": (
        contour(ContourData=b"\\".join([b"nan"] * 12)),
        "one of its contours is no polygon",
    ),
    "a contour of two points": (
        contour(ContourData=[0] * 6, NumberOfContourPoints=2),
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
