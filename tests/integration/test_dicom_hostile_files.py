"""Broken and hostile DICOM: each is a sentence of ours with a remedy, and none costs memory."""

import re
import struct
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from dicom_files import (
    assert_sentence,
    having,
    items,
    make_enhanced,
    make_slice,
    only_series,
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
)

from medseg_core.dicom_errors import DicomError
from medseg_core.imaging.dicom import headers
from medseg_core.imaging.dicom.scan import scan
from medseg_core.imaging.dicom.series import read_series

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


BROKEN_SLICES = {
    "pixels cut short": (
        having(PixelData=bytes(30)),
        "it holds 30 bytes of pixels where its header claims 40",
    ),
    "pixels too many": (
        having(PixelData=bytes(44)),
        "it holds 44 bytes of pixels where its header claims 40",
    ),
    "no pixels": (having(PixelData=None), "it has no pixels"),
    "zero rows": (having(Rows=0), "its Rows is 0"),
    "no columns": (having(Columns=None), "its Columns is missing"),
    "absurd size": (
        having(Rows=65535, Columns=65535),
        "it claims 65535x65535x1 pixels, more than can be held",
    ),
    "twelve bits allocated": (having(BitsAllocated=12), "bytes of pixels where its header claims 30"),
    "values above unused bits": (
        having(BitsStored=12, HighBit=15),
        "its HighBit is 15 where BitsStored is 12",
    ),
    "NaN spacing": (having(PixelSpacing=b"nan\\0.5 "), "its PixelSpacing is NaN or infinite"),
    "infinite spacing": (having(PixelSpacing=b"inf\\0.5 "), "its PixelSpacing is NaN or infinite"),
    "negative spacing": (having(PixelSpacing=[-0.7, 0.5]), "its PixelSpacing is -0.7 x 0.5 mm"),
    "zero spacing": (having(PixelSpacing=[0, 0]), "its PixelSpacing is 0 x 0 mm"),
    "three spacings": (having(PixelSpacing=[1, 1, 1]), r"its PixelSpacing has 3 number\(s\) where 2 belong"),
    "words for spacing": (having(PixelSpacing=b"one\\two "), "its PixelSpacing is not a number"),
    "no spacing": (having(PixelSpacing=None), "its PixelSpacing is missing"),
    "spacing of no microscope": (
        having(PixelSpacing=["1e-300", "1e-300"]),
        "its PixelSpacing is 1e-300 x 1e-300 mm",
    ),
    "a position beyond the earth": (
        having(ImagePositionPatient=["1e300", "0", "0"]),
        "its ImagePositionPatient is more than a kilometre away",
    ),
    "no position": (having(ImagePositionPatient=None), "its ImagePositionPatient is missing"),
    "NaN position": (
        having(ImagePositionPatient=b"nan\\0\\0 "),
        "its ImagePositionPatient is NaN or infinite",
    ),
    "no orientation": (having(ImageOrientationPatient=None), "its ImageOrientationPatient is missing"),
    "no direction": (
        having(ImageOrientationPatient=[0] * 6),
        "its ImageOrientationPatient is not two unit vectors",
    ),
    "skewed axes": (
        having(ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]),
        "its ImageOrientationPatient is not two unit vectors at right angles",
    ),
    "slope of zero": (having(RescaleSlope=0), "its RescaleSlope is 0"),
    "NaN slope": (having(RescaleSlope=b"nan "), "its RescaleSlope is NaN or infinite"),
    "values beyond float32": (having(RescaleSlope=1e300), "its rescaled values are beyond what can be held"),
    "a table of values": (
        having(ModalityLUTSequence=[items()]),
        r"its values follow from a table \(modality LUT\)",
    ),
    "a film without places": (
        having(NumberOfFrames=3),
        "it is a film of several frames without a place of their own",
    ),
    "video": (
        lambda made: compressed(made, b"1234", MPEG2MPML),
        r"its compression \(transfer syntax\) is not read",
    ),
    "an unknown compression": (
        lambda made: compressed(made, b"1234", HTJ2KLossless),
        r"its compression \(transfer syntax\) is not read",
    ),
    "noise instead of RLE": (
        lambda made: compressed(made, bytes(range(100)), RLELossless),
        "cannot be decoded as its",
    ),
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
}


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
    "more frames than places": (
        having(NumberOfFrames=4),
        r"has 3 item\(s\) where 4 frames are claimed",
    ),
    "absurdly many frames": (
        having(NumberOfFrames=2**31 - 1),
        "it claims 5x4x2147483647 pixels, more than can be held",
    ),
    "frames below zero": (having(NumberOfFrames=-1), "its NumberOfFrames is -1"),
    "frames without places": (
        having(PerFrameFunctionalGroupsSequence=[items() for _ in range(3)]),
        "its ImagePositionPatient is missing",
    ),
    "no frames of their own": (
        having(PerFrameFunctionalGroupsSequence=None),
        r"has 0 item\(s\) where 3 frames",
    ),
    "fewer pixels than frames": (
        having(PixelData=bytes(80)),
        "it holds 80 bytes of pixels where its header claims 120",
    ),
}


@pytest.mark.parametrize(("spoil", "fault"), BROKEN_ENHANCED.values(), ids=BROKEN_ENHANCED)
def test_a_broken_enhanced_file_is_refused(tmp_path, spoil, fault):
    save(spoil(make_enhanced(3)), tmp_path / "a.dcm")

    with pytest.raises(DicomError) as refusal:
        read_series(only_series(tmp_path))
    assert_sentence(refusal.value, fault)


def test_an_image_larger_than_memory_is_refused(tmp_path, monkeypatch):
    series = only_series(write_series(tmp_path, 2))

    def allocate(*_args):
        raise MemoryError

    monkeypatch.setattr("medseg_core.imaging.dicom.series.np.empty", allocate)
    with pytest.raises(DicomError) as refusal:
        read_series(series)
    assert_sentence(refusal.value, "its 0 GiB do not fit into the memory of this machine")


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
