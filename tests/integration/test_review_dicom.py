"""`medseg-site review` of a folder of DICOM: its series, what was drawn on them, and what `predict` left of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from reviewing import write_grid

from medseg_client.review.answers import Answers, Material
from medseg_client.review.series_cases import series_cases
from medseg_core.config import Task
from medseg_core.imaging.dicom.scan import scan
from medseg_core.imaging.dicom.series import read_slices
from medseg_core.review_errors import PredictionFolderError

DATA = Path(__file__).parents[3] / "shared" / "data" / "dicom"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published sets are not at {DATA}")
SHAPE = (512, 512, 3)


@pytest.fixture
def scans(tmp_path):
    """A CT with a segmentation of the liver."""
    folder = tmp_path / "scans"
    shutil.copytree(DATA / "seg/ct-3slice", folder)
    shutil.copy(DATA / "seg/liver.dcm", folder)
    return folder


@pytest.fixture
def results(scans, tmp_path):
    """What `predict` leaves of that CT: the segmentation of the spine's neighbours, and a map of uncertainty."""
    series = scan(scans).series[0]
    folder = tmp_path / "out" / "case-7"
    folder.mkdir(parents=True)
    document = {"series_uids": [series.series_uid], "uncertainty": {"score": 0.25, "threshold": 0.5}}
    (folder / "prediction.json").write_text(json.dumps(document))
    shutil.copy(DATA / "seg/liver.dcm", folder / "segmentation.dcm")
    grid = read_slices(series).geometry
    path = write_grid(folder / "entropy.nii.gz", np.full(grid.shape, 0.125, np.float32), spacing=grid.spacing)
    entropy = sitk.ReadImage(str(path))
    entropy.SetOrigin(grid.origin_mm)
    entropy.SetDirection(grid.direction)
    sitk.WriteImage(entropy, str(path))
    return folder.parent


def answers_of(scans, results=None, task=None):
    return Answers(Material(series_cases(scans, results, task)))


def told(answers, address):
    reply = answers.answer(address)
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def published(name):
    """A mask of the published set along the axes of the screen, `(i, j, k)`."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(DATA / "seg" / name)), "LPI")
    return sitk.GetArrayFromImage(image).T


def maps(answers, name, kind):
    """All axial slices of a kind, `(i, j, k)`."""
    slices = [answers.answer(f"case/{name}/axial/{k}/{kind}") for k in range(SHAPE[2])]
    rows = [np.frombuffer(reply.body, np.uint8).reshape(SHAPE[1], SHAPE[0]) for reply in slices]
    return np.stack(rows).T


def test_a_series_is_a_case_with_what_was_drawn_on_it(scans):
    (case,) = series_cases(scans, None, None)
    answers = answers_of(scans)

    assert (case.case_id, case.has_truth, case.has_prediction) == ("CT-1", True, False)
    assert told(answers, "case/CT-1/image.json")["layers"][0]["modality"] == "CT"
    assert told(answers, "case/CT-1/labels.json")["names"] == ["Liver"]
    assert np.array_equal(maps(answers, "CT-1", "truth"), published("liver_seg.nrrd"))


def test_what_predict_left_is_found_by_the_series_that_it_names(scans, results):
    (case,) = series_cases(scans, results, None)
    answers = answers_of(scans, results)
    found = told(answers, "case/case-7/labels.json")

    assert (case.case_id, case.has_prediction, case.uncertainty) == ("case-7", True, 0.25)
    assert found["entropy"] == 0.125
    assert found["scores"]["dice"] == 1.0
    assert np.array_equal(maps(answers, "case-7", "prediction"), published("liver_seg.nrrd"))


def test_a_held_case_has_no_prediction(scans, results):
    (results / "case-7/segmentation.dcm").unlink()
    (results / "case-7/entropy.nii.gz").unlink()

    found = told(answers_of(scans, results), "case/case-7/labels.json")

    assert (found["truth"], found["prediction"], found["entropy"]) == (True, False, None)


def test_drawings_under_other_names_than_the_predictions_are_not_compared(scans, results):
    (scans / "liver.dcm").unlink()
    shutil.copy(DATA / "seg/partial_overlaps.dcm", scans)

    found = told(answers_of(scans, results), "case/case-7/labels.json")

    assert (found["comparable"], found["scores"]["dice"]) == (False, None)


def test_a_task_names_the_segments(scans, results):
    task = {
        "name": "t",
        "spatial_dims": 3,
        "channels": [{"name": "ct", "modality": "CT"}],
        "labels": {"organ": 1, "vessel": 2},
        "segments": {"organ": ["liv*"]},
    }
    answers = answers_of(scans, results, Task.model_validate(task))

    assert told(answers, "case/case-7/image.json")["layers"][0]["name"] == "ct"
    assert told(answers, "case/case-7/labels.json")["names"] == ["organ", "vessel"]
    assert np.array_equal(maps(answers, "case-7", "truth"), published("liver_seg.nrrd"))


def test_contours_of_the_published_set_have_the_volume_of_the_published_mask():
    answers = answers_of(DATA / "sts/STS_001/MR_T1")

    (row,) = told(answers, "case/MR-1/labels.json")["scores"]["labels"]

    assert row["name"] == "GTV_Mass_MR_T1"
    assert row["truth"] == pytest.approx(365, rel=0.04)  # mL; Dice with the published mask is 0.97


def test_series_of_one_modality_are_numbered():
    cases = series_cases(DATA / "sts", None, None)

    assert [case.case_id for case in cases] == ["CT-1", "MR-1", "PT-1", "CT-2", "MR-2", "PT-2"]


def test_a_folder_of_any_name_becomes_one_that_is_safe_in_an_address(scans, results):
    (results / "case-7").rename(results / "Müller, T1 (axial)")

    (case,) = series_cases(scans, results, None)

    assert case.case_id == "M_ller_T1_axial"
    assert case.has_prediction


def test_results_of_other_series_are_told(results):
    with pytest.raises(PredictionFolderError, match=r"no prediction\.json in it is of a series in"):
        series_cases(DATA / "sts/STS_001/MR_T1", results, None)


def test_a_damaged_result_is_told(scans, results):
    (results / "case-7/prediction.json").write_text("{}")

    with pytest.raises(PredictionFolderError, match=r"case-7/prediction\.json cannot be read"):
        series_cases(scans, results, None)


def test_a_damaged_segmentation_is_told_beside_the_image(scans, results):
    (results / "case-7/segmentation.dcm").write_bytes(b"x" * 200)
    answers = answers_of(scans, results)
    reply = answers.answer("case/case-7/labels.json")

    assert reply.status == 422
    assert "segmentation.dcm" in json.loads(reply.body)["fault"]
    assert told(answers, "case/case-7/image.json")["shape"] == list(SHAPE)


def test_a_segmentation_of_another_series_is_told(scans, results):
    shutil.copy(DATA / "seg/23x38x3/seg/label.seg", results / "case-7/segmentation.dcm")

    assert answers_of(scans, results).answer("case/case-7/labels.json").status == 422
