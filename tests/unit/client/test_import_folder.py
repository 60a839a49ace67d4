"""The folder of an import: whole cases, a list that medseg reads, nothing of what was half done or is refused now."""

from pathlib import Path

import numpy as np
import pytest
from html_page import Page

from medseg_client.importing.folder import ImportedCase, ImportFolder
from medseg_client.importing.page import Refusal, write_page
from medseg_client.importing.private_record import PrivateRecord
from medseg_core.assessment.pictured_slice import picture, picture_file
from medseg_core.cohort.checks import check_cohort
from medseg_core.cohort.manifest import read_cohort
from medseg_core.config import Task
from medseg_core.imaging.io import write_image, write_label
from medseg_core.import_errors import OccupiedImportError
from medseg_core.types import Geometry

TASK = Task.model_validate(
    {
        "name": "squares",
        "spatial_dims": 3,
        "channels": [{"name": "t1"}, {"name": "t2", "optional": True}],
        "labels": {"square": 1},
    }
)
OTHER_TASK = TASK.model_copy(update={"name": "circles"})
GRID = Geometry((12, 10, 4), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))


def name(number: int) -> str:
    return f"case-{number:016x}"


def add(folder: ImportFolder, number: int, channels: tuple[str, ...] = ("t1", "t2")) -> ImportedCase:
    """A case with a square, whose voxels depend on its number."""
    rng, label = np.random.default_rng(number), np.zeros(GRID.shape, np.uint8)
    label[3:8, 2:6, 1:3] = 1
    case = ImportedCase(
        case_id=name(number),
        patient_id=f"patient-{number}",
        images={channel: f"images/{name(number)}_{channel}.nii.gz" for channel in channels},
        label=f"labels/{name(number)}.nii.gz",
        attributes={"modality": "MR", "sex": "F", "field_strength_t": "1.5"},
        size=GRID.shape,
        spacing_mm=GRID.spacing_mm,
        volumes_ml={"square": 0.12},
    )
    with folder.filling() as part:
        for path in case.images.values():
            image = rng.normal(size=GRID.shape).astype(np.float32)
            write_image(part / path, image, GRID)
        write_label(part / case.label, label, GRID)
        (part / "cases").mkdir()
        shown = picture(image[None], label, np.zeros_like(label), GRID.spacing)
        (part / f"cases/{case.case_id}.npz").write_bytes(picture_file(shown))
        folder.keep(case, part)
    return case


def opened(root: Path) -> ImportFolder:
    return ImportFolder(root, "north", TASK)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_list_is_one_that_medseg_reads_and_finds_sound(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    add(folder, 2)
    add(folder, 1, ("t1",))
    folder.finish()
    cohort = read_cohort(tmp_path, TASK)
    assert [case.case_id for case in cohort.cases] == [name(1), name(2)]
    assert [case.missing for case in cohort.cases] == [(1,), ()]
    assert cohort.cases[0].attributes["sex"] == "F"
    assert cohort.cases[0].site == "north"
    assert check_cohort(cohort, TASK).is_sound


def test_an_import_that_was_killed_and_repeated_ends_the_same(tmp_path: Path) -> None:
    whole = opened(tmp_path / "whole")
    killed = opened(tmp_path / "killed")
    for number in (1, 2):
        add(whole, number)
    whole.finish()
    add(killed, 1)
    with killed.filling() as part:
        write_image(part / "images/half.nii.gz", np.zeros(GRID.shape, np.float32), GRID)
        part.replace(tmp_path / "kept")  # as a kill would leave it
    (tmp_path / "kept").replace(tmp_path / "killed/.part")
    (tmp_path / f"killed/images/{name(3)}_t1.nii.gz").write_bytes(b"without a record")
    again = opened(tmp_path / "killed")
    for number in (1, 2):
        add(again, number)
    again.finish()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_case_that_is_refused_now_is_gone_with_its_files(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    add(folder, 1)
    add(folder, 2)
    folder.finish()
    folder.drop(name(1))
    folder.finish()
    assert not [path for path in tmp_path.rglob("*") if name(1) in path.name]
    assert [case.case_id for case in read_cohort(tmp_path, TASK).cases] == [name(2)]


def test_files_of_others_in_its_folders_are_left_alone(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    add(folder, 1)
    (tmp_path / "images/notes.txt").write_text("mine")
    folder.finish()
    assert (tmp_path / "images/notes.txt").exists()


@pytest.mark.parametrize("held", ["manifest.csv", "photo.jpg"])
def test_a_folder_that_is_no_import_is_not_touched(tmp_path: Path, held: str) -> None:
    (tmp_path / held).write_text("mine")
    with pytest.raises(OccupiedImportError, match=r"holds files that are no import. Choose another --out"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [held]


def test_the_import_of_another_task_is_not_mixed_in(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(OccupiedImportError, match="another site or task"):
        ImportFolder(tmp_path, "north", OTHER_TASK)


def test_the_page_shows_each_case_and_every_fault_and_needs_nothing_else(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    add(folder, 1)
    refusals = [Refusal(name(2), "a slice <is> missing", "Send the series again")]
    write_page(folder, "north", refusals=refusals, unused={"localiser": 3})
    page = Page(folder.page)
    assert "1 case of 1 patient" in page.text
    assert "a slice <is> missing" in page.text
    assert "Send the series again" in page.text
    assert "3: localiser" in page.text
    assert "square 0.12 mL" in page.text
    assert sum(tag == "image" for tag, _ in page.tags) == 1
    assert all(source.startswith("data:") for source in page.attributes("href") if not source.startswith("#"))
    assert "Research use only" in page.text


def test_who_is_who_is_kept_apart_and_grows(tmp_path: Path) -> None:
    for number, patient in ((1, "Ä 7"), (2, "8"), (1, "Ä 7")):
        record = PrivateRecord(tmp_path / "import")
        record.name(name(number), patient="p", patient_id=patient, study="1.2", series=["1.3", "1.4"])
        record.leave_out_file(Path("/scans/x.dcm"), "is no DICOM")
        record.write()
    assert (tmp_path / "import").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "import/names.csv").read_text("utf-8").splitlines()[1:] == [
        f"{name(1)},Ä 7,1.2,1.3 1.4,p",
        f"{name(2)},8,1.2,1.3 1.4,p",
    ]
    assert (tmp_path / "import/left_out.csv").read_text().splitlines()[1:] == ["/scans/x.dcm,,,is no DICOM,"]
