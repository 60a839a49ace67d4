"""A model trained on files, of patients of other hospitals, draws on DICOM what was published for it."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from command_line import caller
from enrolment import make_site

from medseg_core.imaging.dicom.scan import scan
from medseg_core.imaging.dicom.segmentation import read_segmentation
from medseg_core.imaging.dicom.series import read_slices
from medseg_core.imaging.io import read_label
from medseg_core.learning.file_prediction import image_case, segment_case
from medseg_core.learning.model_package import read_model

DATA = Path(__file__).parents[3] / "shared" / "data"
SARCOMA, DICOM = DATA / "sarcoma", DATA / "dicom" / "sts"
PATIENTS = ("STS_001", "STS_002")
# the preset's task on a coarse grid, a small network, a quarter of a minute of one core
EXPERIMENT = """
[task]
name = "sarcoma"
spatial_dims = 3
spacing_mm = [3.9, 3.9, 6.54]
channels = [{ name = "T1", modality = "MR" }]
labels = { tumour = 1 }
[model]
channels = [8, 16, 32]
[training]
patch_size = [32, 32, 16]
learning_rate = 1e-2
batch_size = 4
cpu_threads = 1
foreground_fraction = 0.5
[federation]
rounds = 5
local_epochs = 4
"""
# Measured: 0.42 and 0.74; all drawn has 0.14 and 0.09. The images are crops around the tumour, so that a mirrored
# map scores hardly less: that DICOM is seen as the file is, is asked for beside it.
LEAST_DICE = {"STS_001": 0.3, "STS_002": 0.6}


def write_others(folder: Path) -> Path:
    """The set without the patients whose DICOM is there."""
    with (SARCOMA / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["patient_id"] not in PATIENTS]
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(
            {**row, "image": SARCOMA / row["image"], "label": SARCOMA / row["label"]} for row in rows
        )
    return folder


def dice(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    return float(2 * np.sum(first & second) / (first.sum() + second.sum()))


@pytest.mark.slow
@pytest.mark.skipif(not SARCOMA.is_dir() or not DICOM.is_dir(), reason=f"the public sets are not in {DATA}")
def test_a_model_trained_on_the_files_of_others_finds_the_tumours_in_dicom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    trained = caller(monkeypatch, capsys)(
        "run",
        tmp_path / "experiment.toml",
        "--data",
        write_others(tmp_path / "data"),
        "--out",
        tmp_path / "run",
    )
    assert trained.code == 0, trained.err
    site, _ = make_site(tmp_path / "site")
    for patient in PATIENTS:
        told = caller(monkeypatch, capsys, "medseg-site")(
            "predict", site.root, "--model", tmp_path / "run/model",
            "--image", DICOM / patient / "MR_T1/image", "--out", tmp_path / patient,
        )  # fmt: skip
        assert told.code == 0, told.err
        assert told.out.startswith("image: segmented, ")

        (series,) = scan(DICOM / patient / "MR_T1/image").series
        (drawn,) = read_segmentation(
            tmp_path / patient / "image/segmentation.dcm", read_slices(series).geometry
        )
        truth = (
            read_label(SARCOMA / f"labels/{patient}.nii.gz", spatial_dims=3, case_id=patient).voxels[0] > 0
        )
        assert dice(truth, drawn.mask) >= LEAST_DICE[patient]
        of_file = segment_case(
            read_model(tmp_path / "run/model"), image_case([SARCOMA / f"images/{patient}_t1.nii.gz"])
        )
        assert dice(of_file.labels > 0, drawn.mask) >= 0.999
