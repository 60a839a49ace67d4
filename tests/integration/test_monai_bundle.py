"""MONAI's own bundle runner executes the exported model, without medseg, to the labels that `predict` writes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import make_experiment
from PIL import Image
from trained_model import write_trained

from medseg_core.imaging.io import read_label, write_image
from medseg_core.learning.file_prediction import image_case, segment_files
from medseg_core.learning.model_package import read_model
from medseg_core.types import Geometry

RNG = np.random.default_rng(0)
# Refuses to import anything of ours, then does what `python -m monai.bundle` does.
RUNNER = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("medseg"):
            raise ImportError("nothing of ours is needed: " + name)
sys.meta_path.insert(0, Refuse())
runpy.run_module("monai.bundle", run_name="__main__")
"""


def run_bundle(model: Path, here: Path, *options: str) -> None:
    """`monai.bundle run` with the current folder `here`. On failure the test shows what it said."""
    config = str(model / "configs" / "inference.json")
    command = [
        sys.executable,
        "-c",
        RUNNER,
        "run",
        "--config_file",
        config,
        "--output_dir",
        "theirs",
        *options,
    ]
    done = subprocess.run(
        command,
        cwd=here,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]


def predict_ours(model: Path, images: list[list[Path]], out: Path) -> None:
    assert segment_files(read_model(model), [image_case(files) for files in images], out) == ()


def test_pictures_are_segmented_alike(tmp_path):
    model, images = tmp_path / "elsewhere" / "model", tmp_path / "images"
    task = {
        "labels": {"vessel": 255, "disc": [7, 8]},
        "channels": [
            {"name": "red"},
            {"name": "green", "normalisation": "range"},
            {"name": "blue", "clahe": True},
        ],
    }
    write_trained(model, task=task)
    images.mkdir()
    for name, shape in (("a.png", (40, 56)), ("b.tif", (16, 16)), ("c.bmp", (30, 90))):
        Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(images / name)

    run_bundle(model, tmp_path, "--dataset_dir", "images")

    predict_ours(model, [[path] for path in sorted(images.iterdir())], tmp_path / "ours")
    for name in "abc":
        ours, theirs = (
            np.asarray(Image.open(tmp_path / folder / f"{name}_segmentation.png"))
            for folder in ("ours", "theirs")
        )
        np.testing.assert_array_equal(ours, theirs)
        assert {0, 7, 255} >= set(np.unique(theirs))
        assert len(np.unique(theirs)) > 1


def test_channels_in_files_of_their_own_are_listed(tmp_path):
    write_trained(tmp_path / "model", task={"channels": [{"name": "t1"}, {"name": "t2"}]})
    files = [tmp_path / f"a_{name}.png" for name in ("t1", "t2")]
    for path in files:
        Image.fromarray(RNG.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)

    run_bundle(tmp_path / "model", tmp_path, "--datalist", str([[str(path) for path in files]]))

    predict_ours(tmp_path / "model", [files], tmp_path / "ours")
    ours, theirs = (
        np.asarray(Image.open(tmp_path / folder / "a_t1_segmentation.png")) for folder in ("ours", "theirs")
    )
    np.testing.assert_array_equal(ours, theirs)


def test_volumes_are_segmented_alike_on_their_own_grid(tmp_path):
    pytest.importorskip("nibabel", reason="MONAI reads NIfTI with nibabel, which is in the dev extra")
    model = tmp_path / "model"
    sections = {
        "task": {
            "spatial_dims": 3,
            "channels": [{"name": "t1"}, {"name": "t2"}],
            "labels": {"left": 2, "right": 1},
        },
        "training": {"patch_size": [16, 16, 16]},
    }
    assert make_experiment(**sections).task.orientation == "LPS"
    write_trained(model, **sections)
    direction = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # against LPS: two axes swapped, one mirrored
    geometry = Geometry((16, 15, 12), (1.0, 1.5, 2.0), (-30.0, 12.0, 7.0), direction)
    files = [tmp_path / f"a_{name}.nii.gz" for name in ("t1", "t2")]
    for path in files:
        write_image(path, RNG.normal(100, 20, geometry.shape).astype(np.float32), geometry)

    run_bundle(model, tmp_path, "--datalist", str([[str(path) for path in files]]))

    predict_ours(model, [files], tmp_path / "ours")
    ours, theirs = (
        read_label(tmp_path / folder / "a_t1_segmentation.nii.gz", spatial_dims=3, case_id=folder)
        for folder in ("ours", "theirs")
    )
    np.testing.assert_array_equal(ours.voxels, theirs.voxels)
    assert theirs.geometry.spacing_mm == pytest.approx(geometry.spacing_mm)
    assert theirs.geometry.origin_mm == pytest.approx(geometry.origin_mm)
    assert theirs.geometry.direction == pytest.approx(direction)
    assert len(np.unique(theirs.voxels)) > 1
