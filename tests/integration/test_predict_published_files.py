"""Real images: what a model predicts after export, what it predicted before, and the scores of the files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import caller
from trained_model import initial_weights, make_summary

from medseg_core.assessment.metrics import score_case
from medseg_core.cohort.labels import map_labels
from medseg_core.cohort.loading import load_case
from medseg_core.cohort.preprocess import preprocess
from medseg_core.config import Experiment
from medseg_core.imaging.io import read_image, read_label
from medseg_core.learning.file_prediction import image_case
from medseg_core.learning.model_package import write_model
from medseg_core.learning.networks import build_network
from medseg_core.learning.prediction import segment_original
from medseg_simulation.preset_files import read_preset

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published sets are not at {DATA}")

SETS = {
    "hippocampus": ("hippocampus_003", "hippocampus_004"),
    "retina": ("STARE_im0001", "DRIVE_21_training"),
    "sarcoma": ("STS_001",),
    "cardiac": ("SC-HF-I-01-IM-0001-0048",),
}


def small(preset: str) -> Experiment:
    """The preset with a network that predicts in a moment."""
    document = read_preset(preset).model_dump(mode="json", exclude_none=True)
    document["model"] |= {"name": "unet", "channels": [4, 4, 4], "residual_units": 0}
    document["evaluation"]["overlap"] = 0.0
    return Experiment.model_validate(document)


def write_part(preset: str, folder: Path) -> list[dict[str, str]]:
    """A manifest of some cases of a published set, with absolute paths; returns its rows."""
    with (DATA / preset / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["case_id"] in SETS[preset]]
    for row in rows:
        row |= {key: str(DATA / preset / row[key]) for key in ("image", "label")}
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.mark.parametrize("preset", SETS)
def test_export_changes_no_voxel_and_evaluate_scores_what_predict_writes(
    preset, tmp_path, monkeypatch, capsys
):
    medseg, experiment = caller(monkeypatch, capsys), small(preset)
    network = build_network(experiment.task, experiment.model, seed=0)
    write_model(tmp_path / "model", experiment, initial_weights(experiment), make_summary(experiment))
    rows = write_part(preset, tmp_path)

    images = [row["image"] for row in rows]
    medseg("predict", "--model", tmp_path / "model", "--image", *images, "--out", tmp_path / "out")
    medseg("evaluate", "--model", tmp_path / "model", "--data", tmp_path, "--out", tmp_path / "scores.json")

    listed = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]
    scores = json.loads((tmp_path / "scores.json").read_text())
    dims, names = experiment.task.spatial_dims, tuple(experiment.task.labels)
    for row, entry, scored in zip(rows, listed, scores["cases"], strict=True):
        case = image_case([Path(row["image"])])
        prepared = preprocess(load_case(case, experiment.task, needs_label=False), experiment.task)
        before = segment_original(network, prepared, experiment)

        written = read_label(tmp_path / "out" / entry["segmentation"], spatial_dims=dims, case_id="w")
        classes = map_labels(written.voxels[0], experiment.task, case_id="w")
        np.testing.assert_array_equal(classes, before)
        image = read_image(
            Path(row["image"]), spatial_dims=dims, channels=len(experiment.task.channels), case_id="i"
        )
        assert written.geometry.shape == image.geometry.shape
        assert written.geometry.spacing_mm == pytest.approx(image.geometry.spacing_mm)
        assert written.geometry.origin_mm == pytest.approx(image.geometry.origin_mm, abs=1e-4)
        assert written.geometry.direction == pytest.approx(image.geometry.direction, abs=1e-5)

        label = read_label(Path(row["label"]), spatial_dims=dims, case_id="t")
        truth = map_labels(label.voxels[0], experiment.task, case_id="t")
        expected = score_case(classes, truth, labels=names, spacing_mm=image.geometry.spacing_mm)
        assert scored["case_id"] == row["case_id"]
        for name in names:
            for metric, value in scored["labels"][name].items():
                assert value == pytest.approx(getattr(expected[name], metric)), (name, metric)
