"""`medseg-simulate evaluate`: scores of files, and the file of the scores."""

import csv
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from builders import make_experiment
from command_line import caller
from PIL import Image
from trained_model import write_trained

from medseg_core.assessment.model_evaluation import SCHEMA_FILE, evaluation_schema


@pytest.fixture
def medseg(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("square") / "model"
    write_trained(folder, task={"labels": {"square": 255}})
    return folder


def write_data(folder: Path, sites=("north", "north", "south"), labels=True) -> Path:
    """Pictures with bright squares, one a patient, and a manifest."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for n, site in enumerate(sites):
        truth = np.zeros((18, 24), np.uint8)
        truth[4 : 9 + n, 6:15] = 255
        image = np.clip(rng.normal(60, 15, truth.shape) + truth / 3, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"image{n}.png")
        Image.fromarray(truth).save(folder / f"label{n}.png")
        rows.append((f"c{n}", f"p{n}", site, f"image{n}.png", f"label{n}.png" if labels else ""))
    write_manifest(folder, rows)
    return folder


def write_manifest(folder: Path, rows) -> None:
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("case_id", "patient_id", "site", "image", "label"), *rows])


def scores_of(medseg, model, data, out):
    outcome = medseg("evaluate", "--model", model, "--data", data, "--out", out)
    assert outcome.code == 0, outcome.err
    return json.loads(out.read_text()), outcome


def test_the_file_fits_the_stored_schema(medseg, model, tmp_path):
    scores, _ = scores_of(medseg, model, write_data(tmp_path / "data"), tmp_path / "scores.json")

    jsonschema.validate(scores, json.loads(SCHEMA_FILE.read_text()))


def test_the_stored_schema_is_that_of_the_code():
    """To renew it: SCHEMA_FILE.write_text(json.dumps(evaluation_schema(), indent=2) + "\\n")."""
    assert json.loads(SCHEMA_FILE.read_text()) == evaluation_schema()


def test_means_sites_labels_and_cases_agree(medseg, model, tmp_path):
    scores, _ = scores_of(medseg, model, write_data(tmp_path / "data"), tmp_path / "scores.json")

    dice = {case["case_id"]: case["mean"]["dice"] for case in scores["cases"]}
    assert scores["mean"]["dice"] == pytest.approx(sum(dice.values()) / 3)
    assert scores["labels"]["square"] == scores["mean"]
    assert scores["sites"]["north"]["dice"] == pytest.approx((dice["c0"] + dice["c1"]) / 2)
    assert scores["sites"]["south"]["dice"] == dice["c2"]
    assert (scores["n_cases"], scores["n_patients"]) == (3, 3)
    assert scores["mean"]["hd95_mm"] is None


def test_scores_are_those_of_the_files_that_predict_writes(medseg, model, tmp_path):
    data = write_data(tmp_path / "data")
    scores, _ = scores_of(medseg, model, data, tmp_path / "scores.json")

    medseg("predict", "--model", model, "--image", *data.glob("image*.png"), "--out", tmp_path / "out")

    for n in range(3):
        truth = np.asarray(Image.open(data / f"label{n}.png")) > 0
        found = np.asarray(Image.open(tmp_path / f"out/image{n}_segmentation.png")) > 0
        dice = 2 * (truth & found).sum() / (truth.sum() + found.sum())
        assert scores["cases"][n]["mean"]["dice"] == pytest.approx(dice)


def test_a_table_names_sites_labels_and_all(medseg, model, tmp_path):
    _, outcome = scores_of(medseg, model, write_data(tmp_path / "data"), tmp_path / "scores.json")

    for row in ("site north", "site south", "label square", "all cases", "HD95 px"):
        assert row in outcome.out
    assert "HD95 mm" not in outcome.out


def test_data_without_sites_have_one_nameless_site(medseg, model, tmp_path):
    data = write_data(tmp_path / "data", sites=("", "", ""))

    scores, _ = scores_of(medseg, model, data, tmp_path / "scores.json")

    assert set(scores["sites"]) == {"(none)"}
    assert scores["cases"][0]["site"] == "(none)"


def test_cases_without_a_label_are_left_out_and_counted(medseg, model, tmp_path):
    data = write_data(tmp_path / "data")
    rows = [("c0", "p0", "", "image0.png", "label0.png"), ("c1", "p1", "", "image1.png", "")]
    write_manifest(data, rows)

    scores, outcome = scores_of(medseg, model, data, tmp_path / "scores.json")

    assert scores["n_cases"] == 1
    assert "1 cases without a label are left out" in outcome.err


def test_data_without_any_label_are_refused(medseg, model, tmp_path):
    data = write_data(tmp_path / "data", labels=False)

    outcome = medseg("evaluate", "--model", model, "--data", data, "--out", tmp_path / "scores.json")

    assert outcome.code == 1
    assert "names no label for any case. Scores need the truth: use predict, or add labels." in outcome.err


def test_all_faulty_cases_are_named_and_nothing_is_written(medseg, model, tmp_path):
    data = write_data(tmp_path / "data")
    (data / "image0.png").unlink()
    Image.fromarray(np.full((18, 24), 7, np.uint8)).save(data / "label2.png")

    outcome = medseg("evaluate", "--model", model, "--data", data, "--out", tmp_path / "scores.json")

    assert outcome.code == 1
    assert "2 of 3 cases cannot be used" in outcome.err
    assert "case c0: there is no file" in outcome.err
    assert "case c2" in outcome.err
    assert not (tmp_path / "scores.json").exists()


def test_a_folder_in_the_place_of_the_file_is_told_before_anything_is_scored(medseg, model, tmp_path):
    outcome = medseg("evaluate", "--model", model, "--data", tmp_path / "nowhere", "--out", tmp_path)

    assert outcome.code == 1
    assert "it is a folder where a file is to be written" in outcome.err


def test_a_data_set_that_is_not_there_is_told(medseg, model, tmp_path):
    outcome = medseg("evaluate", "--model", model, "--data", tmp_path / "no", "--out", tmp_path / "s.json")

    assert outcome.code == 1
    assert "there is no such folder or file" in outcome.err


def test_an_ignored_region_does_not_count(medseg, tmp_path):
    task = {"labels": {"square": 255}, "ignore_value": 9}
    assert make_experiment(task=task).task.ignore_value == 9
    write_trained(tmp_path / "model", task=task)
    data = write_data(tmp_path / "data", sites=("north",))
    label = np.asarray(Image.open(data / "label0.png")).copy()
    label[:, 12:] = 9
    Image.fromarray(label).save(data / "label0.png")

    scores, _ = scores_of(medseg, tmp_path / "model", data, tmp_path / "scores.json")

    medseg(
        "predict", "--model", tmp_path / "model", "--image", data / "image0.png", "--out", tmp_path / "out"
    )
    found = np.asarray(Image.open(tmp_path / "out/image0_segmentation.png"))[:, :12] > 0
    truth = label[:, :12] == 255
    expected = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    assert scores["mean"]["dice"] == pytest.approx(expected)


def hospitals(folder: Path) -> Path:
    """Two hospitals, by column site and by column scanner; the south writes 7 for the square."""
    data = write_data(folder)
    Image.fromarray((np.asarray(Image.open(data / "label2.png")) // 255 * 7).astype(np.uint8)).save(
        data / "label2.png"
    )
    with (data / "manifest.csv").open("w", newline="") as file:
        names = ("north", "Aster 15"), ("north", "Aster 15"), ("south_", "Boreas 3")
        rows = [
            (f"c{n}", f"p{n}", site, f"image{n}.png", f"label{n}.png", scanner)
            for n, (site, scanner) in enumerate(names)
        ]
        heading = ("case_id", "patient_id", "site", "image", "label", "scanner")
        csv.writer(file).writerows([heading, *rows])
    return data


@pytest.mark.parametrize(("partition", "site"), [("natural", "south"), ("attribute:scanner", "Boreas-3")])
def test_a_case_is_scored_by_what_its_own_site_calls_the_labels(medseg, model, tmp_path, partition, site):
    simulation = {"partition": partition, "site": {site: {"labels": {"square": 7}}}}
    write_trained(tmp_path / "model", task={"labels": {"square": 255}}, simulation=simulation)

    scores, _ = scores_of(medseg, tmp_path / "model", hospitals(tmp_path / "data"), tmp_path / "scores.json")

    plain, _ = scores_of(medseg, model, write_data(tmp_path / "plain"), tmp_path / "plain.json")
    assert [case["mean"] for case in scores["cases"]] == [case["mean"] for case in plain["cases"]]


@pytest.mark.parametrize("is_scored", [False, True])
def test_a_label_that_a_site_does_not_annotate_is_scored_there_only_where_that_is_asked_for(
    medseg, tmp_path, is_scored
):
    task = {"labels": {"square": 255, "disc": 254}}
    site = {"north": {"not_annotated": ["disc"]}}
    write_trained(tmp_path / "model", task=task, simulation={"site": site, "score_all_labels": is_scored})

    scores, _ = scores_of(medseg, tmp_path / "model", write_data(tmp_path / "data"), tmp_path / "scores.json")

    told = [sorted(case["labels"]) for case in scores["cases"]]
    assert told == ([["disc", "square"]] * 3 if is_scored else [["square"], ["square"], ["disc", "square"]])
