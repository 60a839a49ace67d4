"""Files that are missing, cut, damaged or not what their name says: a remedy, and nothing on the terminal."""

import gzip
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from volume_files import cut, ramp, spoil, write_volume

from medseg_core.data_errors import (
    MissingFileError,
    TooLargeError,
    TruncatedFileError,
    UnreadableFileError,
    UnsupportedFormatError,
)
from medseg_core.errors import CaseError
from medseg_core.imaging.io import read_image
from medseg_core.imaging.pictures import PICTURE_SUFFIXES

NOISE = np.random.default_rng(0).normal(size=(30, 40, 50)).astype(np.float32)


def refusal_of(path, expected=UnreadableFileError, dims=3):
    with pytest.raises(expected) as refusal:
        read_image(path, spatial_dims=dims, channels=1, case_id="c1")
    message = str(refusal.value)
    assert message.startswith("case c1: ")
    assert str(path) in message
    assert "ITK" not in message
    return message


def patch_header(path: Path, *fields: tuple[int, str, tuple]) -> Path:
    """Overwrites fields of a .nii header: (offset, struct format, values)."""
    data = bytearray(path.read_bytes())
    for offset, form, values in fields:
        struct.pack_into(form, data, offset, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "name", ["case01.nii.gz", "Case_01.nii.gz", "case_01.nii", "case-01.NII.GZ", "case_01.mha"]
)
def test_missing_file_suggests_the_name_that_lies_there(tmp_path, name):
    write_volume(tmp_path / "case_01.nii.gz", ramp(3, 4, 5))
    message = refusal_of(tmp_path / name, MissingFileError)
    assert message.endswith("case_01.nii.gz lies there: correct the name.")


def test_missing_file_never_suggests_another_patient(tmp_path):
    write_volume(tmp_path / "case_01.nii.gz", ramp(3, 4, 5))
    assert "case_01" not in refusal_of(tmp_path / "case_02.nii.gz", MissingFileError)


def test_missing_folder_says_what_to_do(tmp_path):
    message = refusal_of(tmp_path / "nowhere" / "a.nii.gz", MissingFileError)
    assert message.endswith("Correct the path, or copy the file there.")


def test_name_that_no_file_can_have(tmp_path):
    for name in ("a\0b.nii.gz", "a" * 5000 + ".nii.gz"):
        with pytest.raises(CaseError, match=r"there is no file|cannot be opened"):
            read_image(tmp_path / name, spatial_dims=3, channels=1, case_id="c1")


def test_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "a.nii.gz").mkdir()
    assert "is a folder. Name one file; convert a DICOM series" in refusal_of(tmp_path / "a.nii.gz")


def test_pipe_in_place_of_a_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    assert "is not a regular file" in refusal_of(tmp_path / "a.nii.gz")


def test_loop_of_links(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    assert "cannot be opened" in refusal_of(tmp_path / "a.nii.gz")


@pytest.fixture
def ordinary_user():
    """Root may read everything: act as nobody."""
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    yield
    os.seteuid(user)


@pytest.fixture
def locked_file(tmp_path):
    path = write_volume(tmp_path / "a.nii.gz", ramp(3, 4, 5))
    path.chmod(0)
    return path


def test_file_that_may_not_be_read(locked_file, ordinary_user):
    assert "permission denied. Give the account that runs this program the right to read" in refusal_of(
        locked_file
    )


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr", ".png", ".tif"])
def test_empty_file(tmp_path, suffix):
    (tmp_path / f"a{suffix}").touch()
    assert "is empty (0 bytes). Copy it again from its source." in refusal_of(tmp_path / f"a{suffix}", dims=2)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr"])
@pytest.mark.parametrize("length", [3, 30, 3000])
def test_text_with_the_name_of_an_image(tmp_path, capfd, suffix, length):
    (tmp_path / f"a{suffix}").write_text("no" * length)
    assert "Open it in a viewer; export or copy it again." in refusal_of(tmp_path / f"a{suffix}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("share", [0.05, 0.6, 0.9999])
def test_cut_file_is_never_filled_up(tmp_path, capfd, suffix, compress, share):
    path = cut(write_volume(tmp_path / f"a{suffix}", NOISE, compress=compress), share)
    assert "opy it again" in refusal_of(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha"])
def test_cut_file_says_that_the_transfer_was_cut_short(tmp_path, suffix):
    path = cut(write_volume(tmp_path / f"a{suffix}", NOISE))
    assert "is incomplete" in (message := refusal_of(path, TruncatedFileError))
    assert message.endswith("Copy it again from its source: the transfer was cut short.")


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_damaged_compressed_file_is_never_read_as_noise(tmp_path, capfd, suffix):
    path = spoil(write_volume(tmp_path / f"a{suffix}", NOISE, compress=True))
    assert "opy it again" in refusal_of(path)
    assert capfd.readouterr() == ("", "")


def test_data_file_of_a_header_is_missing_or_cut(tmp_path, capfd):
    path = write_volume(tmp_path / "a.mhd", NOISE, compress=False)
    cut(tmp_path / "a.raw")
    with pytest.raises(TruncatedFileError, match=r"a\.raw is incomplete"):
        read_image(path, spatial_dims=3, channels=1, case_id="c1")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(MissingFileError, match=r"a\.raw"):
        read_image(path, spatial_dims=3, channels=1, case_id="c1")
    (tmp_path / "b.nhdr").write_bytes(b"")
    write_volume(tmp_path / "b.nhdr", NOISE, compress=False)
    cut(tmp_path / "b.raw")
    refusal_of(tmp_path / "b.nhdr")
    assert capfd.readouterr() == ("", "")


def test_header_with_a_list_of_data_files_is_refused(tmp_path):
    path = write_volume(tmp_path / "a.mhd", NOISE, compress=False)
    path.write_text(path.read_text().replace("a.raw", "slice%03d.raw 1 50 1"))
    assert "Save it as one .mha or .nii.gz file." in refusal_of(path)


@pytest.mark.parametrize("name", ["a.nhdr", "a.nrrd"])
@pytest.mark.parametrize("files", ["LIST\na.raw", "slice%03d.raw 0 9 1"])
@pytest.mark.parametrize("field", ["data file", "Data File", "datafile"])
def test_nrrd_header_with_a_list_of_data_files_is_refused(tmp_path, name, files, field):
    header = write_volume(tmp_path / "a.nhdr", NOISE, compress=False).read_text()
    (tmp_path / name).write_text(header.replace("data file: a.raw", f"{field}: {files}"))
    assert "is spread over several data files. Save it as one" in refusal_of(tmp_path / name)


def test_nrrd_header_whose_data_file_is_missing(tmp_path):
    path = write_volume(tmp_path / "a.nhdr", NOISE, compress=False)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(MissingFileError, match=r"a\.raw"):
        read_image(path, spatial_dims=3, channels=1, case_id="c1")


def test_the_checksum_of_an_nrrd_file_counts_in_whatever_case_its_fields_are(tmp_path):
    path = write_volume(tmp_path / "a.nrrd", NOISE, compress=True)
    path.write_bytes(spoil(path).read_bytes().replace(b"encoding: gzip", b"Encoding: GZIP"))
    assert "its checksum does not match" in refusal_of(path)


@pytest.mark.parametrize(
    "field", ["DimSize = 3 -4 5", "DimSize = 3 4", "ElementType = MET_STRANGE", "NDims = x"]
)
def test_metaimage_header_that_makes_no_sense(tmp_path, capfd, field):
    path = write_volume(tmp_path / "a.mha", ramp(3, 4, 5), compress=False)
    name = field.split(" = ")[0].encode()
    lines = [field.encode() if line.startswith(name) else line for line in path.read_bytes().split(b"\n")]
    path.write_bytes(b"\n".join(lines))
    assert "damaged header" in refusal_of(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("offset", "form", "values", "told"),
    [
        (40, "<8h", (3, -5, 4, 5, 1, 1, 1, 1), "its size makes no sense"),
        (40, "<8h", (9, 3, 4, 5, 1, 1, 1, 1), "its size makes no sense"),
        (76, "<8f", (1, 0, 1, 1, 1, 1, 1, 1), "Export it again with its true spacing"),
        (76, "<8f", (1, 1, float("nan"), 1, 1, 1, 1, 1), "Export it again with its true spacing"),
        (108, "<f", (float("nan"),), "its size makes no sense"),
        (108, "<f", (9000.0,), "is incomplete"),
        (280, "<f", (float("-inf"),), "its position makes no sense"),
        (70, "<h", (1536,), "cannot be decoded as Nifti"),
    ],
)
def test_nifti_header_that_makes_no_sense(tmp_path, capfd, offset, form, values, told):
    path = patch_header(write_volume(tmp_path / "a.nii", ramp(3, 4, 5)), (offset, form, values))
    assert told in refusal_of(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_absurd_nifti_is_refused_before_anything_is_allocated(tmp_path, suffix):
    path = patch_header(
        write_volume(tmp_path / "a.nii", ramp(3, 4, 5)), (40, "<8h", (3, 30000, 30000, 30000, 1, 1, 1, 1))
    )
    if suffix == ".nii.gz":
        path = path.rename(tmp_path / "b.nii")
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "a.nii.gz"
    message = refusal_of(path, TooLargeError)
    assert "claims 30000x30000x30000 voxels" in message
    assert message.endswith("Correct the header if it is damaged; crop or downsample the image if it is not.")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_absurd_header_of_text_is_refused_before_anything_is_allocated(tmp_path, suffix):
    path = write_volume(tmp_path / f"a{suffix}", ramp(3, 4, 5), compress=False)
    absurd = path.read_bytes().replace(b"3 4 5\n", b"60000 60000 60000\n")
    path.write_bytes(absurd)
    assert "60000x60000x60000" in refusal_of(path, TooLargeError)


def test_absurd_png_is_refused_before_anything_is_allocated(tmp_path):
    path = write_volume(tmp_path / "a.png", ramp(4, 5, dtype=np.uint8))
    data = bytearray(path.read_bytes())
    struct.pack_into(">II", data, 16, 60000, 60000)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    path.write_bytes(data)
    assert "60000x60000" in refusal_of(path, TooLargeError, dims=2)


def test_the_other_byte_order_is_read_and_checked_too(tmp_path):
    body = ramp(3, 4, 5).astype(">i2").tobytes(order="F")
    head = bytearray(352)
    fields = [
        (0, ">i", (348,)),
        (40, ">8h", (3, 3, 4, 5, 1, 1, 1, 1)),
        (70, ">hh", (4, 16)),
        (76, ">8f", (1, 1, 1, 1, 1, 1, 1, 1)),
        (108, ">f", (352,)),
        (344, "4s", (b"n+1\0",)),
    ]
    for offset, form, values in fields:
        struct.pack_into(form, head, offset, *values)
    path = tmp_path / "a.nii"
    path.write_bytes(head + body)
    np.testing.assert_array_equal(
        read_image(path, spatial_dims=3, channels=1, case_id="c1").voxels[0], ramp(3, 4, 5)
    )
    assert "is incomplete" in refusal_of(cut(path, 0.9))


def test_axes_that_are_not_at_right_angles(tmp_path, capfd):
    path = write_volume(tmp_path / "a.nii", ramp(3, 4, 5))
    shear = (1, 0.2, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    patch_header(path, (252, "<h", (0,)), (280, "<12f", shear))
    assert "Resample it to a grid with right angles" in refusal_of(path)
    assert capfd.readouterr() == ("", "")


def test_complex_numbers(tmp_path):
    path = write_volume(tmp_path / "a.nii", ramp(3, 4, 5).astype(np.complex64))
    assert "Save their magnitude." in refusal_of(path)


@pytest.mark.parametrize(("name", "hint"), [("a.dcm", "dcm2niix"), ("a.npy", ".nii.gz"), ("a", ".nii.gz")])
def test_other_formats_are_refused_with_the_known_ones(tmp_path, name, hint):
    (tmp_path / name).write_bytes(b"anything")
    assert hint in refusal_of(tmp_path / name, UnsupportedFormatError)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".jpg", ".tif", ".gif", ".ppm"]), st.data()
)
def test_changed_bytes_are_read_or_refused_and_nothing_else(tmp_path, suffix, data):
    seed = tmp_path / f"seed{suffix}"
    if not seed.exists():
        if suffix in PICTURE_SUFFIXES:
            Image.fromarray(ramp(9, 8, dtype=np.uint8)).save(seed)
        else:
            write_volume(seed, ramp(5, 6, 7))
    content = bytearray(seed.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"changed{suffix}"
    path.write_bytes(content)
    with suppress(CaseError):
        read_image(path, spatial_dims=None, channels=None, case_id="c1")
