"""What the page of `medseg-site review` gets: slices voxel for voxel, scores computed by hand, faults in a sentence."""

import json

import numpy as np
import pytest
from PIL import Image
from reviewing import (
    SHAPE,
    SPACING,
    make_prediction,
    make_scan,
    make_truth,
    material_of,
    write_cohort,
    write_grid,
)

from medseg_client.review.answers import ROOM, Answers, Material
from medseg_client.review.cases import Predictions, cases_to_review
from medseg_client.review.labels import LabelSource
from medseg_client.review.pictures import open_picture
from medseg_client.review.reviewed import file_cases
from medseg_core.config import Task
from medseg_core.types import Case

PREDICTION = "a_ct_segmentation.nii.gz"


@pytest.fixture
def folder(tmp_path):
    return write_cohort(tmp_path)


@pytest.fixture
def answers(folder):
    return Answers(material_of(folder))


def told(answers, address):
    reply = answers.answer(address)
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def fault(answers, address):
    reply = answers.answer(address)
    assert reply.status == 422
    return json.loads(reply.body)["fault"]


def pixels(answers, address, dtype, shape):
    """Rows of a slice."""
    reply = answers.answer(address)
    assert (reply.status, reply.content_type) == (200, "application/octet-stream"), reply.body
    return np.frombuffer(reply.body, dtype).reshape(shape)


def show(folder, image, label=None, *, task=None, name="image.nii.gz", **grid):
    """Answers for one case of these arrays, or of a picture file."""
    path = folder / name
    if path.suffix == ".gz":
        write_grid(path, image, **grid)
    else:
        Image.fromarray(image).save(path)
    truth = None if label is None else write_grid(folder / "label.nii.gz", label, **grid)
    case = Case("x", "p", "", (path,), truth)
    return Answers(Material(file_cases([case], LabelSource(Predictions(), task))))


# ---- slices --------------------------------------------------------------------------------------------------


def test_an_axial_slice_has_the_patients_right_on_the_left_and_the_front_above(answers):
    shown = pixels(answers, "case/a/axial/0/layer-0", "<i2", (24, 20))

    assert np.array_equal(shown, make_scan()[:, :, 9].T)  # i runs to the left, j to the back, k to the head


def test_a_coronal_slice_has_the_head_above(answers):
    shown = pixels(answers, "case/a/coronal/5/layer-0", "<i2", (10, 20))

    assert np.array_equal(shown, make_scan()[:, 5, ::-1].T)


def test_a_sagittal_slice_has_the_front_on_the_left_and_the_head_above(answers):
    shown = pixels(answers, "case/a/sagittal/3/layer-0", "<i2", (10, 24))

    assert np.array_equal(shown, make_scan()[3, :, ::-1].T)


def test_labels_lie_on_the_voxels_of_their_image(answers):
    at = 9 - 3

    truth = pixels(answers, f"case/a/axial/{at}/truth", "u1", (24, 20))
    prediction = pixels(answers, "case/a/sagittal/5/prediction", "u1", (10, 24))

    assert np.array_equal(truth, make_truth()[:, :, 3].T)
    assert np.array_equal(prediction, make_prediction()[5, :, ::-1].T)


def test_a_volume_with_other_axes_shows_the_same_planes(tmp_path, answers):
    scan = make_scan()
    turned = np.ascontiguousarray(scan.transpose(2, 0, 1)[:, ::-1])  # axes to the head, right, back
    matrix = [0, -1, 0, 0, 0, 1, 1, 0, 0]
    other = show(tmp_path, turned, spacing=(2.5, 1.0, 0.5), direction=matrix)

    for address, shape in (("axial/4", (24, 20)), ("coronal/5", (10, 20)), ("sagittal/3", (10, 24))):
        ours = pixels(answers, f"case/a/{address}/layer-0", "<i2", shape)
        assert np.array_equal(pixels(other, f"case/x/{address}/layer-0", "<i2", shape), ours)
    assert told(other, "case/x/image.json")["spacing"] == list(SPACING)


def test_an_oblique_volume_is_shown_along_its_own_axes(tmp_path):
    turn = np.radians(20)
    matrix = [np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1]
    answers = show(tmp_path, make_scan(), direction=matrix)

    shown = pixels(answers, "case/x/axial/0/layer-0", "<i2", (24, 20))

    assert np.array_equal(shown, make_scan()[:, :, 9].T)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.arange(480, dtype=np.int16) % 256, "uint8"),
        (np.arange(480, dtype=np.int16) - 240, "int16"),
        (np.arange(480, dtype=np.uint16) + 60_000, "uint16"),
        (np.arange(480, dtype=np.int32) * 1000, "float32"),
        (np.arange(480, dtype=np.float32) / 2, "float32"),
    ],
)
def test_values_go_in_the_smallest_type_that_holds_them_all(tmp_path, array, kind):
    voxels = array.reshape(10, 12, 4)
    answers = show(tmp_path, voxels)

    (layer,) = told(answers, "case/x/image.json")["layers"]
    shown = pixels(answers, "case/x/axial/3/layer-0", np.dtype(kind).newbyteorder("<"), (12, 10))

    assert layer["type"] == kind
    assert layer["extremes"] == [float(array.min()), float(array.max())]
    assert np.array_equal(shown, voxels[:, :, 0].T.astype(kind))


def test_a_colour_photograph_is_one_picture_of_three_samples(tmp_path):
    photograph = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)  # (row, column, c)
    answers = show(tmp_path, photograph, name="fundus.png")

    facts = told(answers, "case/x/image.json")
    shown = pixels(answers, "case/x/image/0/layer-0", "u1", (30, 40, 3))

    assert (facts["shape"], facts["unit"], facts["planes"]) == ([40, 30], "px", {"image": None})
    assert facts["layers"][0]["colour"]
    assert np.array_equal(shown, photograph)


def test_a_radiograph_of_16_bits_is_shown_with_all_of_them(tmp_path):
    radiograph = (np.arange(1200, dtype=np.uint16) * 50).reshape(30, 40)
    answers = show(tmp_path, radiograph, name="chest.png")

    assert np.array_equal(pixels(answers, "case/x/image/0/layer-0", "<u2", (30, 40)), radiograph)


def test_channels_of_several_files_are_layers_with_the_names_of_the_task(tmp_path):
    files = tuple(write_grid(tmp_path / f"{n}.nii.gz", make_scan(n)) for n in range(2))
    task = Task.model_validate(
        {
            "name": "t",
            "spatial_dims": 3,
            "channels": [{"name": "flair", "modality": "MR"}, {"name": "t1", "modality": "MR"}],
            "labels": {"lesion": 1},
        }
    )
    answers = Answers(
        Material(file_cases([Case("x", "p", "", files, None)], LabelSource(Predictions(), task)))
    )

    layers = told(answers, "case/x/image.json")["layers"]

    assert [(layer["name"], layer["modality"]) for layer in layers] == [("flair", "MR"), ("t1", "MR")]
    shown = pixels(answers, "case/x/axial/9/layer-1", "<i2", (24, 20))
    assert np.array_equal(shown, make_scan(1)[:, :, 0].T)


def test_a_single_slice_has_one_plane(tmp_path):
    answers = show(tmp_path, make_scan()[:, :, :1])

    assert told(answers, "case/x/image.json")["planes"] == {"axial": 2}


def test_a_map_of_uncertainty_beside_the_prediction_is_shown(folder):
    entropy = np.linspace(0, 0.69, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    write_grid(folder / "predictions/a.entropy.nii.gz", entropy)
    answers = Answers(material_of(folder))

    assert told(answers, "case/a/labels.json")["entropy"] == pytest.approx(0.69)
    assert told(answers, "case/b/labels.json")["entropy"] is None
    shown = pixels(answers, "case/a/axial/2/entropy", "<f4", (24, 20))
    assert np.array_equal(shown, entropy[:, :, 7].T)


@pytest.mark.parametrize(
    "address",
    [
        "case/a/axial/10/layer-0",
        "case/a/axial/-1/layer-0",
        "case/a/axial/²/layer-0",
        "case/a/axial/00000000/layer-0",
        "case/a/oblique/0/layer-0",
        "case/a/image/0/layer-0",
        "case/a/axial/0/layer-1",
        "case/a/axial/0/names",
        "case/a/axial/0/entropy",
        "case/a/axial/0/",
        "case/c/axial/0/prediction",
        "case/nobody/axial/0/truth",
        "case/a",
        "",
    ],
)
def test_what_is_not_there_is_not_found(answers, address):
    assert answers.answer(address).status == 404


# ---- facts ---------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_metrics(answers):
    core, rim = told(answers, "case/a/labels.json")["scores"]["labels"]

    # core: 96 voxels of which 48 are found, slice k = 5 is two slices of 2.5 mm away; voxels of 1.25 mm³
    assert (core["name"], core["dice"]) == ("core", pytest.approx(2 * 48 / (96 + 48)))
    assert (core["hd95"], core["volume_error"]) == (5.0, -0.5)
    assert (core["truth"], core["prediction"]) == (pytest.approx(0.120), pytest.approx(0.060))
    assert (rim["name"], rim["dice"], rim["hd95"], rim["volume_error"]) == ("rim", 1.0, 0.0, 0.0)


def test_the_score_of_a_case_is_the_mean_over_labels(answers):
    scores = told(answers, "case/a/labels.json")["scores"]

    assert scores["dice"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["unit"] == "mL"


def test_a_case_can_be_scored_without_being_looked_at(answers):
    assert told(answers, "case/a/dice.json") == {"dice": pytest.approx(5 / 6)}
    assert told(answers, "case/c/dice.json") == {"dice": None}


def test_without_a_prediction_there_are_volumes_and_no_scores(answers):
    found = told(answers, "case/c/labels.json")

    assert (found["truth"], found["prediction"], found["scores"]["dice"]) == (True, False, None)
    assert [row["dice"] for row in found["scores"]["labels"]] == [None, None]
    assert "prediction" not in found["scores"]["labels"][0]


def test_an_image_without_labels_has_none(tmp_path):
    found = told(show(tmp_path, make_scan()), "case/x/labels.json")

    assert (found["names"], found["truth"], found["prediction"], found["start"]) == (
        [],
        False,
        False,
        [10, 12, 5],
    )


def test_an_empty_label_file_is_a_truth_without_labels(tmp_path):
    found = told(show(tmp_path, make_scan(), np.zeros(SHAPE, np.uint8)), "case/x/labels.json")

    assert (found["names"], found["truth"], found["scores"]["labels"]) == ([], True, [])


def test_the_page_knows_which_slices_hold_what(answers):
    along = told(answers, "case/a/labels.json")["along"][2]  # from head to foot: k backwards

    assert along["truth"] == [0, 0, 0, 0, 24, 24, 48, 48, 0, 0]
    assert along["prediction"] == [0, 0, 0, 0, 0, 0, 48, 48, 0, 0]
    assert along["differs"] == [0, 0, 0, 0, 24, 24, 0, 0, 0, 0]


def test_a_case_opens_in_the_middle_of_its_largest_slice(answers):
    i, j, k = told(answers, "case/a/labels.json")["start"]

    assert (j, k) == (8, 6)  # rows 6 to 11; the first of the two slices with 48 voxels
    assert i == 8  # between the two labels


def test_voxels_that_are_not_annotated_count_nowhere(tmp_path):
    truth = make_truth()
    truth[:, :, 4:6] = 9
    task = {"name": "t", "spatial_dims": 3, "channels": [{"name": "ct"}], "labels": {"core": 1, "rim": 2}}
    write_cohort(tmp_path)
    write_grid(tmp_path / "labels/a.nii.gz", truth)
    task = Task.model_validate(task | {"ignore_value": 9})

    found = told(Answers(material_of(tmp_path, task=task)), "case/a/labels.json")

    assert found["scores"]["dice"] == 1.0
    assert sum(found["along"][2]["differs"]) == 0


def test_a_value_that_nothing_names_is_a_label_by_its_number(folder):
    (folder / "predictions/predictions.json").unlink()

    assert told(Answers(material_of(folder)), "case/a/labels.json")["names"] == ["value_1", "value_2"]


def test_values_that_nothing_says_to_be_the_same_are_not_compared(folder):
    write_grid(folder / "labels/a.nii.gz", np.where(make_truth() > 0, 255, 0).astype(np.uint8))

    found = told(Answers(material_of(folder)), "case/a/labels.json")

    assert not found["comparable"]
    assert (found["scores"]["dice"], found["names"]) == (None, ["core", "rim", "value_255"])
    assert "differs" not in found["along"][0]


def test_a_task_says_which_values_are_one_label(tmp_path):
    truth = np.where(make_truth() > 0, 255, 0).astype(np.uint8)
    task = {"name": "t", "spatial_dims": 3, "channels": [{"name": "ct"}], "labels": {"all": "nonzero"}}
    write_cohort(tmp_path)
    write_grid(tmp_path / "labels/a.nii.gz", truth)

    found = told(Answers(material_of(tmp_path, task=Task.model_validate(task))), "case/a/labels.json")

    assert found["names"] == ["all"]
    assert found["scores"]["dice"] == pytest.approx(2 * 96 / (144 + 96))


def test_a_model_predicts_a_case_when_its_labels_are_asked_for(folder):
    asked = []

    def segment(case):
        asked.append(case.case_id)
        return make_prediction()

    task = {"name": "t", "spatial_dims": 3, "channels": [{"name": "ct"}], "labels": {"core": 1, "rim": 2}}
    material = material_of(folder, task=Task.model_validate(task), segment=segment, is_predicting=True)
    answers = Answers(material)

    listed = told(answers, "cases.json")
    told(answers, "case/c/image.json")
    assert asked == []
    found = told(answers, "case/c/labels.json")
    told(answers, "case/c/labels.json")

    assert listed["predicts"]
    assert asked == ["c"]
    assert found["scores"]["dice"] == pytest.approx(5 / 6)


def test_the_window_at_first_leaves_air_and_outliers_out(tmp_path):
    scan = np.zeros(SHAPE, np.float32)
    scan[5:15, 5:15] = np.linspace(100, 200, 1000).reshape(10, 10, 10)
    scan[5, 5, 5] = 10_000

    (layer,) = told(show(tmp_path, scan), "case/x/image.json")["layers"]

    assert layer["extremes"] == [0.0, 10_000.0]
    assert layer["window"] == pytest.approx([101, 199.5], abs=0.5)


def test_the_list_names_what_each_case_has(folder):
    material = material_of(folder, dice={"b": 0.25}, uncertainty={"a": 0.5})

    first, second, third = told(Answers(material), "cases.json")["cases"]

    assert first == {
        "id": "a",
        "about": "north",
        "truth": True,
        "prediction": True,
        "dice": None,
        "uncertainty": 0.5,
    }
    assert (second["dice"], third["prediction"]) == (0.25, False)


# ---- faults --------------------------------------------------------------------------------------------------


def test_a_damaged_image_is_told_and_other_cases_go_on(folder, answers):
    (folder / "images/a_ct.nii.gz").write_bytes(b"not an image")

    assert "case a: " in fault(answers, "case/a/image.json")
    assert "case a: " in fault(answers, "case/a/axial/0/layer-0")
    assert told(answers, "case/b/image.json")["shape"] == list(SHAPE)


def test_a_prediction_on_another_grid_is_told(folder, answers):
    write_grid(folder / "predictions" / PREDICTION, make_prediction(), spacing=(1.0, 1.0, 2.5))

    assert "case a: prediction spacing (1, 1, 2.5) mm differs from image (1, 0.5, 2.5) mm" in fault(
        answers, "case/a/labels.json"
    )


def test_a_picture_of_values_in_place_of_labels_is_told(tmp_path):
    told_fault = fault(show(tmp_path, make_scan(), make_scan()), "case/x/labels.json")

    assert "different values where labels are expected" in told_fault


def test_a_label_that_the_task_does_not_know_is_told(tmp_path):
    task = {"name": "t", "spatial_dims": 3, "channels": [{"name": "ct"}], "labels": {"core": 1}}
    answers = show(tmp_path, make_scan(), make_truth(), task=Task.model_validate(task))

    assert "the label has the unknown value(s) 2. Known are 0 (background), 1 (core)" in fault(
        answers, "case/x/labels.json"
    )


def test_a_case_that_does_not_fit_in_memory_is_told(answers, monkeypatch):
    def refuse(*arguments):
        raise MemoryError

    monkeypatch.setattr("medseg_client.review.reviewed.open_picture", refuse)

    assert "not enough memory to open this case" in fault(answers, "case/a/image.json")


# ---- memory --------------------------------------------------------------------------------------------------


def test_a_case_is_opened_once_while_it_is_looked_at_and_let_go_after_others(folder, monkeypatch):
    opened = []

    def counting(case, *rest):
        opened.append(case.case_id)
        return open_picture(case, *rest)

    monkeypatch.setattr("medseg_client.review.reviewed.open_picture", counting)
    answers = Answers(material_of(folder))

    for name in ("a", "a", "b", "a", "c", "a", "b"):
        for index in range(3):
            answers.answer(f"case/{name}/axial/{index}/layer-0")

    assert ROOM == 2
    assert opened == ["a", "b", "c", "b"]


def test_a_folder_of_images_without_a_list_has_a_case_for_each(tmp_path):
    write_grid(tmp_path / "knee.nii.gz", make_scan())
    write_grid(tmp_path / "hip.nii.gz", make_scan())
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.nii.gz").write_bytes(b"")

    assert [case.case_id for case in cases_to_review(tmp_path, None).cases] == ["hip", "knee"]
