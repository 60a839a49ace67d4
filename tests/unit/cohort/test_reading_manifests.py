"""manifest.csv becomes cases, however a spreadsheet saved it; a bad one is refused with every fault and its remedy."""

import os
from pathlib import Path

import pytest
from cohort_files import HEADER, make_task, write_manifest

from medseg_core.cohort.manifest import read_cohort
from medseg_core.data_errors import (
    BlankCellError,
    DuplicateCaseError,
    EmptyManifestError,
    ManifestColumnError,
    ManifestRowError,
    PatientInTwoSitesError,
    SeveralManifestFaultsError,
    SharedImageError,
    SiteSpellingError,
    UnreadableManifestError,
    UnsafeNameError,
)
from medseg_core.types import Case

ROW = "c1,p1,A,c1.nii.gz,l1.nii.gz"


def refusal_of(folder, *rows, expected, header=HEADER, task=None):
    path = write_manifest(folder, *rows, header=header)
    with pytest.raises(expected) as refusal:
        read_cohort(folder, task)
    assert str(refusal.value).startswith(f"{path}: ")
    return str(refusal.value)


def test_row_becomes_a_case_with_attributes_and_paths_beside_the_manifest(tmp_path):
    write_manifest(tmp_path, "c1,p1,A,images/c1.nii.gz,labels/c1.nii.gz,Avanto", header=HEADER + ",scanner")
    cohort = read_cohort(tmp_path, make_task())
    assert cohort.layout == "manifest"
    assert cohort.root == tmp_path
    assert cohort.cases == (
        Case(
            "c1",
            "p1",
            "A",
            (tmp_path / "images" / "c1.nii.gz",),
            tmp_path / "labels" / "c1.nii.gz",
            {"scanner": "Avanto"},
        ),
    )


def test_the_file_itself_may_be_given_under_any_name(tmp_path):
    path = write_manifest(tmp_path, ROW, name="my list.csv")
    assert read_cohort(path, None).cases[0].images == (tmp_path / "c1.nii.gz",)


def test_absolute_paths_and_windows_separators(tmp_path):
    write_manifest(tmp_path, "c1,p1,A,/data/c1.nii.gz,labels\\c1.nii.gz")
    case = read_cohort(tmp_path, None).cases[0]
    assert case.images == (Path("/data/c1.nii.gz"),)
    assert case.label == tmp_path / "labels" / "c1.nii.gz"


def test_site_column_may_be_absent_and_a_label_blank(tmp_path):
    write_manifest(tmp_path, "c1,p1,c1.nii.gz,", header="case_id,patient_id,image,label")
    case = read_cohort(tmp_path, None).cases[0]
    assert case.site == ""
    assert case.label is None


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_dialects_of_spreadsheets(tmp_path, separator, newline, mark):
    text = newline.join(
        [HEADER, "", ' c1 ,"p1",A,c1.nii.gz,l1.nii.gz', ",,,,", "c2,p2,B,c2.nii.gz,l2.nii.gz,,"]
    )
    (tmp_path / "manifest.csv").write_bytes((mark + text.replace(",", separator)).encode())
    cases = read_cohort(tmp_path, None).cases
    assert [(c.case_id, c.patient_id, c.site) for c in cases] == [("c1", "p1", "A"), ("c2", "p2", "B")]
    assert cases[0].attributes == {}


def test_quoted_cells_may_hold_the_separator(tmp_path):
    write_manifest(tmp_path, 'c1,p1,A,"a, b.nii.gz",l1.nii.gz')
    assert read_cohort(tmp_path, None).cases[0].images[0].name == "a, b.nii.gz"


def test_one_column_a_channel_in_the_order_of_the_task(tmp_path):
    header = "case_id,patient_id,image_T2,image_T1,label"
    write_manifest(tmp_path, "c1,p1,t2.nii.gz,t1.nii.gz,l.nii.gz", header=header)
    task = make_task(channels=({"name": "T1"}, {"name": "T2"}))
    cohort = read_cohort(tmp_path, task)
    assert [p.name for p in cohort.cases[0].images] == ["t1.nii.gz", "t2.nii.gz"]
    assert cohort.channels == ("T1", "T2")
    assert [p.name for p in read_cohort(tmp_path, None).cases[0].images] == ["t2.nii.gz", "t1.nii.gz"]


def test_columns_beside_the_image_column_are_attributes(tmp_path):
    write_manifest(tmp_path, ROW + ",good", header=HEADER + ",image_quality")
    assert read_cohort(tmp_path, make_task()).cases[0].attributes == {"image_quality": "good"}


def test_patients_numbered_by_each_site_are_different_people(tmp_path):
    header = HEADER + ",patient_id_scope"
    write_manifest(tmp_path, "c1,1,A,a.png,b.png,site", "c2,1,B,c.png,d.png,site", header=header)
    assert [c.patient_id for c in read_cohort(tmp_path, None).cases] == ["A/1", "B/1"]


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("case,patient_id,site,image,label", "Rename 'case' to 'case_id'"),
        ("case_id,patient_id,site,image,labels", "Rename 'labels' to 'label'"),
        ("case_id,patient_id,Site,image,label", "Rename 'Site' to 'site'"),
        ("case_id,patient_id,site,scan,label", "Found are case_id, patient_id, site, scan, label: add it."),
        ("case_id,patient_id,site,image_t1,label", "Rename 'image_t1' to 'image_T1'"),
    ],
)
def test_missing_column_suggests_the_near_miss_or_lists_what_is_there(tmp_path, header, told):
    assert told in refusal_of(tmp_path, ROW, header=header, expected=ManifestColumnError, task=make_task())


def test_repeated_column(tmp_path):
    told = refusal_of(tmp_path, ROW + ",x", header=HEADER + ",site", expected=ManifestRowError)
    assert "'site' is there twice. Rename or remove one of them." in told


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_empty_file(tmp_path, text):
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(EmptyManifestError, match="Add one line for each case below the header"):
        read_cohort(tmp_path, None)


def test_header_alone(tmp_path):
    assert "lists no cases" in refusal_of(tmp_path, expected=EmptyManifestError)


@pytest.mark.parametrize(("row", "column"), [(",p1,A,a.png,b.png", "case_id"), ("c1,p1,A, ,b.png", "image")])
def test_blank_cell_names_line_and_column(tmp_path, row, column):
    told = refusal_of(tmp_path, row, expected=BlankCellError)
    assert f"line 2 has no {column}. Fill the cell in, or remove the line." in told


@pytest.mark.parametrize("row", ["c1,p1,A,a.png", "c1,p1,A,a, b.png,c.png"])
def test_row_with_too_few_or_too_many_cells(tmp_path, row):
    assert "Quote cells that hold the separator" in refusal_of(tmp_path, row, expected=ManifestRowError)


@pytest.mark.parametrize("second", ["c1", "C1"])
def test_duplicate_case(tmp_path, second):
    told = refusal_of(tmp_path, ROW, f"{second},p1,A,other.nii.gz,l2.nii.gz", expected=DuplicateCaseError)
    assert "Give every case an identifier of its own, or remove the repeated line." in told


def test_one_image_for_two_cases_is_found_through_links(tmp_path):
    (tmp_path / "c1.nii.gz").touch()
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "c1.nii.gz")
    told = refusal_of(tmp_path, ROW, "c2,p2,A,link.nii.gz,l2.nii.gz", expected=SharedImageError)
    assert "c1.nii.gz is used twice (c1, c2). Name the right file for each" in told


def test_image_as_its_own_label(tmp_path):
    told = refusal_of(tmp_path, "c1,p1,A,c1.nii.gz,./c1.nii.gz", expected=SharedImageError)
    assert "(c1, c1 as label)" in told


def test_loop_of_links_is_left_to_the_opening_of_the_case(tmp_path):
    (tmp_path / "c1.nii.gz").symlink_to(tmp_path / "c1.nii.gz")
    write_manifest(tmp_path, ROW)
    assert len(read_cohort(tmp_path, None).cases) == 1


def test_patient_at_two_sites(tmp_path):
    told = refusal_of(tmp_path, ROW, "c2,p1,B,c2.nii.gz,l2.nii.gz", expected=PatientInTwoSitesError)
    assert "patient p1 is listed at the sites A, B" in told
    assert "add a column patient_id_scope with the value site" in told


def test_unknown_scope_of_patient_identifiers(tmp_path):
    told = refusal_of(tmp_path, ROW + ",town", header=HEADER + ",patient_id_scope", expected=ManifestRowError)
    assert "write site if each site numbers its own patients" in told


def test_sites_that_differ_in_case_only(tmp_path):
    told = refusal_of(tmp_path, ROW, "c2,p2,a,c2.nii.gz,l2.nii.gz", expected=SiteSpellingError)
    assert "Spell both alike." in told


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("..", "name"),
        (".hidden", "hidden"),
        ("a/b", "a_b"),
        ("a\\b", "a_b"),
        ("a b", "a_b"),
        ("Zürich", "Z_rich"),
        ("a\nb", "a_b"),
        ("C:x", "C_x"),
        ("a.", "a"),
        ("con", "con_"),
        ("NUL.txt", "NUL.txt_"),
        ("x" * 65, "x" * 60),
    ],
)
@pytest.mark.parametrize("column", ["case_id", "site"])
def test_identifier_that_no_file_can_be_called(tmp_path, name, suggestion, column):
    row = f'"{name}",p1,A,a.png,b.png' if column == "case_id" else f'c1,p1,"{name}",a.png,b.png'
    told = refusal_of(tmp_path, row, expected=UnsafeNameError)
    assert f"{column} {name!r} cannot be a file name. Use letters, digits, _ . -" in told
    assert f"for example {suggestion!r}." in told


def test_all_faults_come_at_once(tmp_path):
    rows = (ROW, "c1,p1,B,c1.nii.gz,l1.nii.gz", "c 3,p3,A,c3.nii.gz,l3.nii.gz")
    told = refusal_of(tmp_path, *rows, expected=SeveralManifestFaultsError)
    assert "4 faults" in told
    for part in ("c1 is there twice", "is used twice", "at the sites A, B", "'c 3' cannot be"):
        assert part in told
    told = refusal_of(tmp_path, ",p1,A,a,b", "c2,,A,a,b", expected=SeveralManifestFaultsError)
    assert "line 2 has no case_id" in told
    assert "line 3 has no patient_id" in told


@pytest.mark.parametrize(
    "content", [HEADER.encode() + b"\nc\xe4se,p,A,a,b\n", b"\x00\x01case_id", "é".encode("utf-16")]
)
def test_file_that_is_not_text(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(UnreadableManifestError, match=r"Save it as CSV \(UTF-8\)"):
        read_cohort(tmp_path, None)


def test_cell_without_end(tmp_path):
    (tmp_path / "manifest.csv").write_text(HEADER + '\nc1,p1,A,"' + "x" * 200_000)
    with pytest.raises(UnreadableManifestError, match="is not CSV"):
        read_cohort(tmp_path, None)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("nowhere", "Correct the path"), ("a.txt", "Give the folder of the data, or its manifest")],
)
def test_data_that_is_no_folder(tmp_path, name, remedy):
    (tmp_path / "a.txt").touch()
    with pytest.raises(UnreadableManifestError, match=remedy):
        read_cohort(tmp_path / name, None)


@pytest.fixture
def locked_folder(tmp_path):
    """A folder that may not be entered; for root, who may enter every one, as nobody."""
    folder = tmp_path / "locked"
    write_manifest(folder, ROW)
    folder.chmod(0)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def test_folder_that_may_not_be_entered(locked_folder):
    with pytest.raises(
        UnreadableManifestError, match="Give the account that runs this program the right to read it"
    ):
        read_cohort(locked_folder, None)
