"""Names of files, and what is said when memory runs out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_experiment
from PIL import Image
from trained_model import write_trained

from medseg_core.data_errors import MissingChannelError
from medseg_core.errors import SegmentationMemoryError
from medseg_core.imaging.io import read_image
from medseg_core.learning import file_prediction
from medseg_core.learning.file_prediction import image_case, output_name, segment_case, segment_files
from medseg_core.learning.model_package import read_model


@pytest.mark.parametrize(
    ("image", "dims", "written"),
    [
        ("scan.nii.gz", 3, "scan_segmentation.nii.gz"),
        ("Scan 1.NII.GZ", 3, "Scan 1_segmentation.nii.gz"),
        ("a.b.mha", 3, "a.b_segmentation.nii.gz"),
        ("slice.nrrd", 2, "slice_segmentation.nii.gz"),
        ("eye.JPG", 2, "eye_segmentation.png"),
        ("stack.tiff", 3, "stack_segmentation.tif"),
        (".png", 2, ".png_segmentation.png"),
    ],
)
def test_the_segmentation_is_named_after_the_image(image, dims, written):
    task = make_experiment(task={"spatial_dims": dims}, training={"patch_size": [16] * dims}).task

    assert output_name(image_case([Path("folder") / image]), task) == written


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(300, dtype=np.uint16).astype(np.uint8).reshape(15, 20)).save(path)
    return path


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_a_sentence_with_a_remedy(tmp_path, monkeypatch, picture, error):
    write_trained(tmp_path / "model")

    def segment(*_):
        raise error

    monkeypatch.setattr(file_prediction, "segment_original", segment)

    with pytest.raises(
        SegmentationMemoryError, match=r"case a: out of memory on cpu .* 20x15 voxels\. Use --device"
    ):
        segment_case(read_model(tmp_path / "model"), image_case([picture]))


def test_other_faults_of_torch_are_not_called_lack_of_memory(tmp_path, monkeypatch, picture):
    write_trained(tmp_path / "model")

    def segment(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(file_prediction, "segment_original", segment)

    with pytest.raises(RuntimeError, match="shapes do not match"):
        segment_case(read_model(tmp_path / "model"), image_case([picture]))


def test_progress_is_told_for_every_case_faulty_ones_too(tmp_path, picture):
    write_trained(tmp_path / "model")
    told = []
    cases = [image_case([picture]), image_case([tmp_path / "missing.png"])]

    faults = segment_files(
        read_model(tmp_path / "model"), cases, tmp_path / "out", on_case=lambda: told.append(1)
    )

    assert (len(told), len(faults)) == (2, 1)


def test_a_missing_channel_is_what_the_network_was_trained_to_see(tmp_path, picture):
    channels = [{"name": "red"}, {"name": "infrared", "optional": True}]
    write_trained(tmp_path / "model", task={"channels": channels})
    model = read_model(tmp_path / "model")

    found = segment_case(model, image_case([picture, None]))

    assert found.labels.shape == (20, 15)
    with pytest.raises(MissingChannelError, match="no image of channel red"):
        segment_case(model, image_case([None, picture]))


def test_uncertainty_is_told_where_it_is_asked_for(tmp_path, picture):
    write_trained(tmp_path / "model")
    model = read_model(tmp_path / "model")

    assert segment_files(model, [image_case([picture])], tmp_path / "plain") == ()
    assert segment_files(model, [image_case([picture])], tmp_path / "told", with_uncertainty=True) == ()

    (plain,) = json.loads((tmp_path / "plain/predictions.json").read_text())["predictions"]
    (told,) = json.loads((tmp_path / "told/predictions.json").read_text())["predictions"]
    assert "uncertainty" not in plain
    found = told.pop("uncertainty")
    assert told == plain
    assert (found["threshold"], found["flagged"], found["outside_training"]) == (None, None, [])
    assert 0 <= found["score"] <= 1
    for name in found["maps"]:
        drawn = read_image(tmp_path / "told" / name, spatial_dims=2, channels=1, case_id="map")
        assert (
            drawn.voxels.shape[1:]
            == read_image(picture, spatial_dims=2, channels=1, case_id="picture").voxels.shape[1:]
        )
