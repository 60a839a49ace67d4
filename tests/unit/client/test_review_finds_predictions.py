"""Predictions find their cases by name, scores by identifier; what cannot be used is told with its remedy."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reviewing import write_cohort
from trained_model import write_trained

from medseg_client.review.cases import cases_to_review, find_predictions, read_scores
from medseg_client.review.labels import LabelSource
from medseg_client.review.pictures import open_picture
from medseg_core.data_errors import UnknownLayoutError
from medseg_core.learning.file_prediction import image_case, segment_files
from medseg_core.learning.model_package import read_model
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


@pytest.mark.parametrize("mask", ["one.nii.gz", "one_segmentation.nii.gz", "scan_segmentation.nii.gz"])
@pytest.mark.parametrize("name", ["one_entropy", "one.entropy", "scan_entropy", "scan.entropy"])
def test_a_map_of_uncertainty_is_found_beside_the_prediction(tmp_path, mask, name):
    folder = files(tmp_path / "p", mask, f"{name}.nii.gz", "one_disagreement.nii.gz")

    found = find_predictions(folder, [case("one", "scan.nii.gz")])

    assert found.files == {"one": folder / mask}
    assert found.entropy == {"one": folder / f"{name}.nii.gz"}


@pytest.mark.parametrize("name", ["one_entropy", "one.entropy", "one_disagreement"])
def test_a_map_is_no_prediction_whatever_a_case_is_called(tmp_path, name):
    folder = files(tmp_path / "p", "one_segmentation.nii.gz", f"{name}.nii.gz")

    found = find_predictions(folder, [case("one", "scan.nii.gz"), case(name, f"{name}.nii.gz")])

    assert found.files == {"one": folder / "one_segmentation.nii.gz"}


def test_of_two_maps_the_one_that_predict_wrote_is_taken(tmp_path):
    folder = files(tmp_path / "p", "one.nii.gz", "one.entropy.nii.gz", "one_entropy.nii.gz")

    found = find_predictions(folder, [case("one", "scan.nii.gz")])

    assert found.entropy == {"one": folder / "one_entropy.nii.gz"}


def test_what_predict_writes_beside_a_photograph_can_be_opened(tmp_path):
    Image.fromarray(np.arange(300, dtype=np.uint16).astype(np.uint8).reshape(15, 20)).save(
        photograph := tmp_path / "eye.png"
    )
    write_trained(tmp_path / "model")
    model, one = read_model(tmp_path / "model"), case("one", photograph)
    segment_files(model, [image_case([photograph])], tmp_path / "p", with_uncertainty=True)

    found = find_predictions(tmp_path / "p", [one])

    labels = LabelSource(found, model.experiment.task).open(one, open_picture(one, model.experiment.task))
    assert labels.prediction.shape == labels.entropy.shape == (20, 15)


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
