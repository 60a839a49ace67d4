"""Folders of DICOM become cases: each whole or refused with a reason, and nothing in them says whose they are."""

import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Outcome, caller
from dicom_files import only_series
from dicom_studies import make_importing_site, make_study
from pydicom.dataset import Dataset

from medseg_client.machine_check import check_data
from medseg_client.site_folder import SiteFolder
from medseg_core.cohort.manifest import read_cohort
from medseg_core.config import Experiment, read_experiment
from medseg_core.imaging.dicom.result_facts import Maker, Meaning
from medseg_core.imaging.dicom.results import Found, write_results
from medseg_core.imaging.dicom.series import read_series
from medseg_core.imaging.io import read_image, read_label
from medseg_core.imaging.measurements import measure


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return make_importing_site(tmp_path, data=tmp_path / "out")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], site: SiteFolder, tmp_path: Path
) -> Callable[..., Outcome]:
    """`medseg-site import` of the words, into `out`."""
    call = caller(monkeypatch, capsys, "medseg-site")
    words = ("--out", tmp_path / "out", "--site", site.root, "--task", tmp_path / "experiment.toml")

    def import_(*sources: object) -> Outcome:
        return call("import", *sources, *words)

    return import_


def experiment(folder: Path) -> Experiment:
    return read_experiment(folder / "experiment.toml")


def files(root: Path) -> dict[str, bytes]:
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_a_folder_becomes_cases_that_check_and_training_take_as_they_are(
    run: Callable[..., Outcome], site: SiteFolder, tmp_path: Path
) -> None:
    for number in range(1, 5):
        make_study(tmp_path / f"scans/{number}", number)
    outcome = run(tmp_path / "scans")
    assert outcome.code == 0, outcome.err
    assert "4 cases imported" in outcome.out
    assert "to train on them" not in outcome.out
    (finding,) = check_data(site, [experiment(tmp_path)])
    assert (finding.state, finding.text) == ("ok", "4 cases, 0 warnings")
    case = read_cohort(tmp_path / "out", experiment(tmp_path).task).cases[0]
    assert dict(case.attributes) == {
        "modality": "MR",
        "vendor": "Siemens",
        "scanner": case.attributes["scanner"],
        "field_strength_t": "1.5",
        "sex": "F",
        "age_group": "60-69",
    }


def test_a_site_that_trains_on_other_images_is_told_which_line_to_write(
    run: Callable[..., Outcome], site: SiteFolder, tmp_path: Path
) -> None:
    changed = site.settings.model_copy(update={"data": Path("images")})
    (site.root / "site.toml").write_text(changed.to_toml())
    make_study(tmp_path / "scans", 1)
    outcome = run(tmp_path / "scans")
    line = re.search(r"to train on them: (data = .*) in (.*)\n", outcome.out)
    assert line is not None
    written = (site.root / "site.toml").read_text().replace('data = "images"', line[1])
    Path(line[2]).write_text(written)
    assert site.settings.data == tmp_path / "out"


def test_image_and_label_lie_where_the_scanner_and_the_reader_put_them(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    make_study(tmp_path / "scans", 1)
    run(tmp_path / "scans")
    (case,) = read_cohort(tmp_path / "out", experiment(tmp_path).task).cases
    assert case.label is not None
    image = read_image(case.images[0], spatial_dims=3, channels=1, case_id="x")
    pixels = np.random.default_rng(1).integers(0, 900, (24, 24), np.uint16)
    np.testing.assert_array_equal(image.voxels[0, :, :, 0], pixels.T)
    assert image.geometry.spacing_mm == (1.5, 1.5, 3.0)
    label = read_label(case.label, spatial_dims=3, case_id="x").voxels[0]
    where = np.argwhere(label)
    assert where.min(0).tolist() == [5, 5, 1]
    assert where.max(0).tolist() == [14, 14, 2]
    assert label.sum() == 10 * 10 * 2


def test_two_studies_of_a_patient_have_one_pseudonym(run: Callable[..., Outcome], tmp_path: Path) -> None:
    for number in (1, 2, 3):
        make_study(tmp_path / "scans", number, patient="A" if number < 3 else "B")
    run(tmp_path / "scans")
    cases = read_cohort(tmp_path / "out", experiment(tmp_path).task).cases
    assert len({case.patient_id for case in cases}) == 2
    assert len({case.case_id for case in cases}) == 3


def drop_slice(made: Dataset) -> None:
    if made.Modality == "MR" and made.ImagePositionPatient[2] == 6:
        made.ImagePositionPatient[2] = 6.9


def rename_structure(made: Dataset) -> None:
    if made.Modality == "RTSTRUCT":
        made.StructureSetROISequence[0].ROIName = "Planned^Boost"


def move_contour(made: Dataset) -> None:
    if made.Modality == "RTSTRUCT":
        made.ROIContourSequence[0].ContourSequence[0].ContourData[2] = 1.4


def same_pixels(made: Dataset) -> None:
    if made.Modality == "MR":
        made.PixelData = bytes(len(made.PixelData))


def two_squares(made: Dataset) -> None:
    if made.Modality == "RTSTRUCT":
        again = Dataset()
        again.ROINumber, again.ROIName = 2, "SQUARE"
        made.StructureSetROISequence.append(again)


def points_only(made: Dataset) -> None:
    if made.Modality == "RTSTRUCT":
        for contour in made.ROIContourSequence[0].ContourSequence:
            contour.ContourGeometricType, contour.NumberOfContourPoints = "POINT", 1
            contour.ContourData = contour.ContourData[:3]


FAULTS: dict[str, tuple[Callable[[Dataset], object], str]] = {
    "uneven slices": (drop_slice, "not evenly spaced"),
    "another name": (rename_structure, "none of the 1 segments drawn on its images is a label of the task"),
    "a contour between slices": (move_contour, "one of its contours does not lie in a slice"),
    "an empty image": (same_pixels, "channel t1 is 0 everywhere"),
    "one label twice": (two_squares, "two segments on its images are the label square"),
    "points only": (
        points_only,
        "the label square is drawn, and its contours hold no voxel: they are points",
    ),
    "no patient": (lambda made: setattr(made, "PatientID", ""), "its headers have no patient ID"),
}


@pytest.mark.parametrize(("alter", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_study_is_left_out_whole_with_its_reason_and_the_others_are_there(
    run: Callable[..., Outcome],
    site: SiteFolder,
    tmp_path: Path,
    alter: Callable[[Dataset], object],
    sentence: str,
) -> None:
    make_study(tmp_path / "scans/1", 1)
    make_study(tmp_path / "scans/2", 2, alter=alter)
    outcome = run(tmp_path / "scans")
    assert outcome.code == 1
    assert sentence in outcome.err
    assert "1 left out with a fault, 1 imported" in outcome.err
    page = (tmp_path / "out/import.html").read_text()
    assert sentence in page
    assert "Planned" not in page + outcome.err
    assert len(read_cohort(tmp_path / "out", experiment(tmp_path).task).cases) == 1
    assert [len(list((tmp_path / "out" / name).iterdir())) for name in ("images", "labels", "cases")] == [
        1,
        1,
        2,
    ]
    record = (site.root / "import/left_out.csv").read_text()
    assert re.search(r'\.543\.2\.1,(P2)?,1\.2\.[0-9.]*\.543\.2,"?case-', record)
    assert ("Planned^Boost" in record) == (alter is rename_structure)
    assert f"{site.root / 'import/left_out.csv'} which patients and series they are" in outcome.err


def test_refusals_that_are_alike_are_told_once(run: Callable[..., Outcome], tmp_path: Path) -> None:
    for number in range(1, 13):
        make_study(tmp_path / f"scans/{number}", number, alter=rename_structure)
    make_study(tmp_path / "scans/13", 13, alter=drop_slice)
    outcome = run(tmp_path / "scans")
    assert sorted(re.findall(r"(?m)^case-\w+( and \d+ more)?: ", outcome.err)) == ["", " and 11 more"]
    assert "13 left out with a fault, 0 imported" in outcome.err


def test_a_hospital_names_its_segments_in_a_copy_of_the_experiment(
    run: Callable[..., Outcome], site: SiteFolder, tmp_path: Path
) -> None:
    asked = experiment(tmp_path)
    for number in (1, 2, 3):
        make_study(tmp_path / "scans", number, alter=rename_structure)
    copy = (tmp_path / "experiment.toml").read_text()
    copy = copy.replace("[[task", 'segments = { square = ["planned*"] }\n[[task', 1)
    (tmp_path / "experiment.toml").write_text(copy)
    assert run(tmp_path / "scans").code == 0
    (finding,) = check_data(site, [asked])
    assert (finding.state, finding.text) == ("ok", "3 cases, 0 warnings")


def what_results_repeat(made: Dataset) -> None:
    for keyword in ("StudyID", "StudyTime", "ReferringPhysicianName", "PatientBirthDate"):
        setattr(made, keyword, "")
    made.InstanceNumber = 1


def test_what_a_model_drew_is_no_truth(run: Callable[..., Outcome], site: SiteFolder, tmp_path: Path) -> None:
    for number in (1, 2):
        make_study(tmp_path / f"scans/{number}", number, alter=what_results_repeat)
        series = only_series(tmp_path / f"scans/{number}")
        drawn = np.zeros((24, 24, 4), np.uint8)
        drawn[2:4, 2:4, 1] = 1
        measured = measure(drawn, read_series(series).geometry, {"square": 1})
        found = Found(drawn, (Meaning("square"),), measured)
        write_results(tmp_path / f"scans/{number}", series, found, Maker("squares", "run", "0" * 64, "0.1.0"))
    next((tmp_path / "scans/2").glob("2.2.1.dcm")).unlink()
    outcome = run(tmp_path / "scans")
    assert "1 left out with a fault, 1 imported" in outcome.err
    assert "there is no DICOM SEG or RTSTRUCT of its images" in outcome.err
    (case,) = read_cohort(tmp_path / "out", experiment(tmp_path).task).cases
    assert case.label is not None
    assert read_label(case.label, spatial_dims=3, case_id="x").voxels.sum() == 10 * 10 * 2
    assert (site.root / "import/left_out.csv").read_text().count("a model of medseg drew it") == 2


def test_a_source_that_is_none_is_told_by_its_place(run: Callable[..., Outcome], tmp_path: Path) -> None:
    make_study(tmp_path / "scans", 1)
    outcome = run(tmp_path / "scans", tmp_path / "nowhere")
    assert (outcome.code, "source 2 is neither a folder nor a query" in outcome.err) == (1, True)


def keep_every_second_contour(made: Dataset) -> None:
    if made.Modality == "RTSTRUCT":
        drawn = made.ROIContourSequence[0]
        drawn.ContourSequence = drawn.ContourSequence[::2]


def study_by(folder: Path, number: int, issuer: str) -> None:
    """A study of patient 17, whose number `issuer` gave; "" tells none."""
    told = {"IssuerOfPatientID": issuer} if issuer else {}
    make_study(folder, number, patient="17", alter=lambda made: made.update(told))


def patients(root: Path) -> list[str]:
    cases = read_cohort(root / "out", experiment(root).task).cases
    return [case.patient_id for case in cases]


def test_a_patient_whose_issuer_only_some_studies_tell_is_one_whenever_they_come(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    seen = []
    for number, issuer in enumerate(("", "NORTH", ""), start=1):
        study_by(tmp_path / f"scans/{number}", number, issuer)
        outcome = run(tmp_path / "scans")
        assert (outcome.code, "warning" in outcome.err) == (0, False)
        seen += patients(tmp_path)
    assert len(seen) == 1 + 2 + 3
    assert len(set(seen)) == 1


def test_a_number_that_two_issuers_gave_is_one_patient_and_is_told(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    for number, issuer in enumerate(("NORTH", "SOUTH", ""), start=1):
        study_by(tmp_path / f"scans/{number}", number, issuer)
    outcome = run(tmp_path / "scans")
    assert outcome.code == 0
    assert "warning: 1 patient ID(s) were given by several issuers. Each counts as one patient" in outcome.err
    assert "export different people with different patient IDs" in outcome.err
    assert "NORTH" not in outcome.err
    assert len(set(patients(tmp_path))) == 1


def test_a_number_in_another_alphabet_than_is_told_is_refused(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    scans = make_study(
        tmp_path / "scans",
        1,
        patient="PXX1",
        alter=lambda made: setattr(made, "SpecificCharacterSet", "ISO_IR 192"),
    )
    for path in scans.iterdir():
        path.write_bytes(path.read_bytes().replace(b"PXX1", b"P\xc4\xd61"))  # Latin-1

    assert "its headers have no patient ID that can be read" in run(scans).err


def test_a_label_that_leaves_out_every_second_slice_is_refused(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    make_study(tmp_path / "scans", 1, n_slices=8, alter=keep_every_second_contour)
    outcome = run(tmp_path / "scans")

    assert "the label square is drawn in one of every 2 slices and in none between" in outcome.err


def test_a_study_that_was_mended_comes_in_and_one_that_broke_goes(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    make_study(tmp_path / "scans/1", 1)
    make_study(tmp_path / "scans/2", 2, alter=drop_slice)
    run(tmp_path / "scans")
    (first,) = read_cohort(tmp_path / "out", experiment(tmp_path).task).cases
    make_study(tmp_path / "scans/1", 1, alter=drop_slice)
    make_study(tmp_path / "scans/2", 2)
    assert run(tmp_path / "scans").code == 1
    (second,) = read_cohort(tmp_path / "out", experiment(tmp_path).task).cases
    assert first.case_id != second.case_id
    assert not [path for path in (tmp_path / "out").rglob("*") if first.case_id in path.name]


def test_a_repeated_import_changes_nothing_and_a_later_one_adds(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    make_study(tmp_path / "scans", 1)
    run(tmp_path / "scans")
    before = files(tmp_path / "out")
    run(tmp_path / "scans")
    assert files(tmp_path / "out") == before
    make_study(tmp_path / "more", 2)
    run(tmp_path / "more")
    added = files(tmp_path / "out")
    assert len(read_cohort(tmp_path / "out", experiment(tmp_path).task).cases) == 2
    run(tmp_path / "more", tmp_path / "scans")
    assert files(tmp_path / "out") == added


def test_a_damaged_file_that_may_be_a_slice_is_told(run: Callable[..., Outcome], tmp_path: Path) -> None:
    make_study(tmp_path / "scans", 1)
    (tmp_path / "scans/notes.txt").write_text("for Dr. Example")
    (tmp_path / "scans/last.dcm").touch()
    outcome = run(tmp_path / "scans")
    assert "2 files and series are not used" in outcome.out
    assert "warning: 1 of them may be slices, which their series then lack. Copy or" in outcome.err


def as_ct(made: Dataset) -> None:
    made.Modality = {"MR": "CT"}.get(made.Modality, made.Modality)


def test_what_is_no_image_or_not_asked_for_is_counted_and_no_fault(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    make_study(tmp_path / "scans", 1)
    make_study(
        tmp_path / "scans/ct",
        2,
        alter=lambda made: setattr(made, "Modality", made.Modality.replace("MR", "CT")),
    )
    (tmp_path / "scans/notes.txt").write_text("for Dr. Example")
    outcome = run(tmp_path / "scans")
    assert outcome.code == 0, outcome.err
    assert "2 files and series are not used" in outcome.out
    page = (tmp_path / "out/import.html").read_text()
    assert "its modality is not MR" in page
    assert "it is not a DICOM file" in page


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "none of the 0 series found is what the task asks for"),
        ({"notes.txt": b"x" * 200}, "none of the 0 series"),
    ],
)
def test_a_folder_without_images_is_told(
    run: Callable[..., Outcome], tmp_path: Path, content: dict[str, bytes], sentence: str
) -> None:
    (tmp_path / "scans").mkdir()
    for name, data in content.items():
        (tmp_path / "scans" / name).write_bytes(data)
    outcome = run(tmp_path / "scans")
    assert outcome.code == 1
    assert sentence in outcome.err


def test_a_source_that_is_not_there_is_told_without_its_path(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = run(tmp_path / "ADA^EXAMPLE")
    assert outcome.code == 1
    assert "is neither a folder nor a query. Name a folder" in outcome.err
    assert "ADA" not in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(run: Callable[..., Outcome], tmp_path: Path) -> None:
    make_study(tmp_path / "scans", 1)
    run(tmp_path / "scans")
    shutil.rmtree(tmp_path / "out/labels")
    (tmp_path / "out/labels").write_text("in the way")
    outcome = run(tmp_path / "scans")
    assert outcome.code == 1
    assert "error: cannot write to" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_query_without_a_pacs_is_told(run: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = run("pacs:patient=7")
    assert outcome.code == 1
    assert "site.toml names no PACS" in outcome.err
    assert not (tmp_path / "out").exists()


def test_without_a_task_the_approved_experiment_says_what_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], site: SiteFolder, tmp_path: Path
) -> None:
    call = caller(monkeypatch, capsys, "medseg-site")
    words = ("import", make_study(tmp_path / "scans", 1), "--out", tmp_path / "out", "--site", site.root)
    outcome = call(*words)
    assert outcome.code == 1
    assert "no experiment is approved here" in outcome.err
    site.approved.add(experiment(tmp_path))
    assert call(*words).code == 0


PLANTED = "PLANTEDNAME"
PLANTED_DATE, PLANTED_UID, PLANTED_NUMBER = "19121231", "1.2.826.0.1.3680043.10.543", "987654321"


def plant(made: Dataset) -> None:
    """A mark in every attribute that a hospital's software could fill with words, dates and numbers."""
    import pydicom.datadict as dictionary

    structural = {
        *("SOPClassUID", "Modality", "SamplesPerPixel", "PhotometricInterpretation", "PatientID"),
        *("TransferSyntaxUID", "ImageType", "FrameOfReferenceUID", "SpecificCharacterSet"),
    }
    for tag, (vr, _, _, _, keyword) in dictionary.DicomDictionary.items():
        if (
            not keyword
            or keyword in structural
            or tag >> 16 in (0x0000, 0x0002, 0x7FE0)
            or tag >> 16 >= 0x3000
        ):
            continue
        if vr in ("PN", "LO", "LT", "ST", "UT", "UC"):
            made.add_new(tag, vr, f"{PLANTED}^{keyword}")
        elif vr in ("SH", "AE") or (vr == "CS" and keyword not in ("PatientSex", "PatientPosition")):
            made.add_new(tag, vr, PLANTED)
        elif vr in ("DA", "DT") and keyword not in ("StudyDate", "PatientBirthDate"):
            made.add_new(tag, vr, PLANTED_DATE)
    for keyword in ("MagneticFieldStrength", "PatientWeight", "AcquisitionNumber"):
        setattr(made, keyword, PLANTED_NUMBER)
    made.PatientSex = PLANTED
    made.add_new(0x00090010, "LO", PLANTED)
    made.add_new(0x00091001, "LO", PLANTED)


def test_no_identifier_stands_in_any_file_or_message(
    run: Callable[..., Outcome], site: SiteFolder, tmp_path: Path
) -> None:
    source = tmp_path / f"{PLANTED}^scans"
    make_study(source / "1", 1, patient=f"{PLANTED}1", alter=plant)
    for number, (alter, _) in enumerate(FAULTS.values(), start=2):
        make_study(
            source / str(number),
            number,
            patient=f"{PLANTED}{number}",
            alter=lambda made, alter=alter: (plant(made), alter(made)),  # type: ignore[misc]
        )
    (source / f"{PLANTED}.txt").write_text(PLANTED)
    (source / f"{PLANTED}.dcm").write_bytes(b"\0" * 128 + b"DICM" + PLANTED.encode() * 9)
    outcome = run(source)
    assert "7 left out with a fault, 1 imported" in outcome.err, outcome.err
    found = files(tmp_path / "out")
    found |= {
        f"{name} unpacked": gzip.decompress(data) for name, data in found.items() if name.endswith(".gz")
    }
    found |= {"terminal": (outcome.out + outcome.err).encode(), "names of files": "\n".join(found).encode()}
    secrets = (
        PLANTED,
        PLANTED.lower(),
        PLANTED_DATE,
        PLANTED_UID,
        PLANTED_NUMBER,
        "Ada",
        "ACC77",
        "20240229",
        "19600101",
    )
    for name, data in found.items():
        for secret in secrets:
            assert secret.encode() not in data, f"{secret} in {name}"
            assert secret.encode("utf-16-le") not in data, f"{secret} in {name}"
    assert PLANTED in (site.root / "import/names.csv").read_text()
    assert (site.root / "import").stat().st_mode & 0o077 == 0
