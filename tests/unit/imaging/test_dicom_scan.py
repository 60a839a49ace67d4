"""A folder of DICOM becomes series; what belongs to none is left out with a reason, in bounded memory."""

import os

import pytest
from dicom_files import change, make_enhanced, make_slice, make_structures, save, write_series
from pydicom.uid import MediaStorageDirectoryStorage, SecondaryCaptureImageStorage

from medseg_core.dicom_errors import NotDicomError
from medseg_core.imaging.dicom.scan import scan


def reasons(folder):
    return [(one.path.name, one.reason) for one in scan(folder).left_out]


def test_series_in_one_folder_are_told_apart(tmp_path):
    write_series(tmp_path / "a", 3)
    for k in range(2):
        other = make_slice(k, SeriesInstanceUID="1.2.3.8", SOPInstanceUID=f"1.2.3.8.{k}", Modality="MR")
        save(other, tmp_path / "a" / f"other{k}.dcm")
    save(make_structures({"liver": []}), tmp_path / "b" / "rs.dcm")
    found = scan(tmp_path)

    assert sorted((one.modality, len(one.files)) for one in found.series) == [("CT", 3), ("MR", 2)]
    assert found.structures[0].referenced_series_uids == ("1.2.3.4",)
    assert found.left_out == ()


def test_headers_say_scanner_and_patient(tmp_path):
    told = {
        "Manufacturer": "ACME",
        "ManufacturerModelName": "X1",
        "MagneticFieldStrength": 1.5,
        "PatientSex": "F",
    }
    save(make_slice(0, PatientAge="042Y", BodyPartExamined="Liver", **told), tmp_path / "a.dcm")
    (series,) = scan(tmp_path).series

    assert (series.manufacturer, series.model, series.field_strength_t) == ("ACME", "X1", 1.5)
    assert (series.sex, series.age_years, series.body_part) == ("F", 42, "LIVER")
    assert (series.rows, series.columns, series.slice_thickness_mm) == (4, 5, 3)


@pytest.mark.parametrize(
    ("charset", "name"), [("ISO_IR 100", "Schädel"), ("ISO_IR 192", "頭部"), (None, "head")]
)
def test_descriptions_are_read_in_the_files_own_alphabet(tmp_path, charset, name):
    save(make_slice(0, SpecificCharacterSet=charset, SeriesDescription=name), tmp_path / "a.dcm")

    assert scan(tmp_path).series[0].description == name


@pytest.mark.parametrize(
    ("attributes", "years"),
    [
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientBirthDate": "19800101", "StudyDate": "20200101"}, 40),
        ({"PatientBirthDate": "20300101", "StudyDate": "20200101"}, None),
        ({"PatientAge": "old"}, None),
    ],
)
def test_age_is_told_in_years(tmp_path, attributes, years):
    save(make_slice(0, **attributes), tmp_path / "a.dcm")

    assert scan(tmp_path).series[0].age_years == years


def test_a_second_copy_of_an_object_is_left_out(tmp_path):
    save(make_slice(0), tmp_path / "a.dcm")
    save(make_slice(0), tmp_path / "b.dcm")

    assert len(scan(tmp_path).series[0].files) == 1
    assert reasons(tmp_path) == [("b.dcm", "another file holds an object of the same UID")]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "it is a localiser"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "it is a mosaic of slices in one picture"),
        ({"SamplesPerPixel": 3}, "it is a colour picture"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "it is a colour picture"),
        (
            {"SOPClassUID": SecondaryCaptureImageStorage},
            "it is of the kind Secondary Capture Image Storage, which is not read",
        ),
        ({"SOPClassUID": "1.9.9"}, "it is of a private or unknown kind, which is not read"),
        ({"SOPClassUID": None}, "it lacks its kind (SOP class)"),
        ({"SeriesInstanceUID": None}, "it lacks the UID of its series or its own"),
        ({"SOPInstanceUID": None}, "it lacks the UID of its series or its own"),
    ],
)
def test_what_is_no_slice_is_left_out(tmp_path, attributes, reason):
    save(make_slice(0, **attributes), tmp_path / "a.dcm")

    assert reasons(tmp_path) == [("a.dcm", reason)]


def test_files_that_may_be_slices_are_told_from_what_is_none(tmp_path):
    write_series(tmp_path, 2)
    for name, data in {"a.dcm": b"x" * 200, "B.DCM": b"", "notes.txt": b"hello", ".dcm": b"hidden"}.items():
        (tmp_path / name).write_bytes(data)
    cut_short = save(make_slice(2), tmp_path / "c.dcm")
    cut_short.write_bytes(cut_short.read_bytes()[:300])
    save(make_slice(3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "e.dcm")
    save(make_slice(4, StudyInstanceUID="9.9"), tmp_path / "x.dcm")
    save(make_slice(0), tmp_path / "y.dcm")
    index = make_slice(5, SOPClassUID=None)
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    save(index, tmp_path / "DICOMDIR")
    found = scan(tmp_path)

    assert [one.path.name for one in found.lost] == ["B.DCM", "a.dcm", "c.dcm", "x.dcm"]
    assert len(found.left_out) == 9


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID"])
def test_a_file_of_another_patient_does_not_join_a_series(tmp_path, keyword):
    write_series(tmp_path, 2)
    save(change(make_slice(2), **{keyword: "9.9"}), tmp_path / "z.dcm")

    assert len(scan(tmp_path).series[0].files) == 2
    assert reasons(tmp_path) == [("z.dcm", "its series has files of another patient or study")]


def test_a_file_of_another_kind_does_not_join_a_series(tmp_path):
    write_series(tmp_path, 2)
    save(change(make_enhanced(2), SOPInstanceUID="1.2.3.4.99"), tmp_path / "z.dcm")

    assert reasons(tmp_path) == [("z.dcm", "its series has files of another kind")]


def test_what_is_no_file_of_ours_is_left_out(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.dcm").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    save(make_slice(0), tmp_path / "a.dcm")

    assert dict(reasons(tmp_path)) == {
        "notes.txt": "it is not a DICOM file",
        "empty.dcm": "the file is empty (0 bytes)",
        "pipe": "the file is not a regular file",
        "loop": "it is a link to a folder, which is not followed",
        "broken": "the file is not there",
    }
    assert len(scan(tmp_path).series) == 1


def test_no_folder_is_a_sentence(tmp_path):
    with pytest.raises(NotDicomError, match=r"there is no such folder\. Correct the path\."):
        scan(tmp_path / "nowhere")


def test_a_list_of_files_is_scanned_as_a_folder(tmp_path):
    files = sorted(write_series(tmp_path, 3).iterdir())

    assert scan(files).series[0].files == tuple(files)


def test_progress_is_told_file_by_file(tmp_path):
    write_series(tmp_path, 3)
    told = []
    scan(tmp_path, progress=lambda done, total: told.append((done, total)))

    assert told == [(1, 3), (2, 3), (3, 3)]
