"""Predictions find their cases by name, scores by identifier; what cannot be used is told with its remedy."""

import json
from pathlib import Path

import pytest
from reviewing import write_cohort

from medseg_client.review.cases import cases_to_review, find_predictions, read_scores
from medseg_core.data_errors import UnknownLayoutError
from medseg_core.review_errors import PredictionFolderError, ScoresFileError
from medseg_core.types import Case


def case(name, image):
    return Case(name, name, "", (Path(image),), None)


def files(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "one.nii.gz",
        "one_segmentation.nii.gz",
        "one_segmentation.png",
        "scan_segmentation.nii.gz",
        "scan.mha",
    ],
)
def test_a_prediction_is_named_by_the_case_or_by_its_image(tmp_path, name):
    found = find_predictions(files(tmp_path / "p", name), [case("one", "images/scan.nii.gz")])

    assert found.files == {"one": tmp_path / "p" / name}


def test_a_name_of_an_image_that_two_cases_have_says_nothing(tmp_path):
    folder = files(tmp_path / "p", "image_segmentation.nii.gz", "two.nii.gz")
    cases = [case("one", "one/image.nii.gz"), case("two", "two/image.nii.gz")]

    assert find_predictions(folder, cases).files == {"two": folder / "two.nii.gz"}


def test_a_map_of_uncertainty_is_no_prediction(tmp_path):
    folder = files(tmp_path / "p", "one.nii.gz", "one.entropy.nii.gz")

    found = find_predictions(folder, [case("one", "scan.nii.gz")])

    assert found.files == {"one": folder / "one.nii.gz"}
    assert found.entropy == {"one": folder / "one.entropy.nii.gz"}


def test_the_list_of_predictions_names_the_values(tmp_path):
    cohort = cases_to_review(write_cohort(tmp_path), None)

    assert find_predictions(tmp_path / "predictions", cohort.cases).names == {1: "core", 2: "rim"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"predictions": [{"labels": {"../x": {"value": 1}}}]}',
        '{"predictions": [{"labels": 3}]}',
    ],
)
def test_a_damaged_list_is_told(tmp_path, text):
    folder = files(tmp_path / "p", "one.nii.gz")
    (folder / "predictions.json").write_text(text)

    with pytest.raises(
        PredictionFolderError, match=r"predictions\.json cannot be read\. Remove the list, or let"
    ):
        find_predictions(folder, [case("one", "scan.nii.gz")])


def test_a_folder_for_other_cases_is_told_with_a_name_that_would_do(tmp_path):
    folder = files(tmp_path / "p", "other.nii.gz", "notes.txt")

    with pytest.raises(PredictionFolderError, match=r"such as one_segmentation\.nii\.gz"):
        find_predictions(folder, [case("one", "scan.nii.gz")])


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(PredictionFolderError, match=r"No such file or directory.* predict --out wrote"):
        find_predictions(tmp_path / "p", [case("one", "scan.nii.gz")])


def test_scores_of_evaluate_are_read_by_case(tmp_path):
    path = tmp_path / "scores.json"
    cases = [{"case_id": "a", "mean": {"dice": 0.5, "iou": 0.3}, "labels": {}}]
    path.write_text(json.dumps({"schema": 1, "cases": cases}))

    assert read_scores(path) == {"a": 0.5}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"cases": [{"case_id": "a"}]}',
        "\x00",
        '{"cases": [{"case_id": "a", "mean": {"dice": NaN}}]}',
    ],
)
def test_a_file_that_holds_no_scores_is_told(tmp_path, text):
    path = tmp_path / "scores.json"
    path.write_text(text)

    with pytest.raises(ScoresFileError, match=r"Give the file that medseg-site evaluate --out wrote\."):
        read_scores(path)


def test_an_empty_folder_is_no_cohort(tmp_path):
    with pytest.raises(UnknownLayoutError):
        cases_to_review(tmp_path, None)
