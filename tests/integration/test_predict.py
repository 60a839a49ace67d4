"""`medseg-simulate predict`: label files on the grid of the images, from model/ alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from builders import make_experiment
from command_line import caller
from PIL import Image
from trained_model import write_trained

from medseg_core.imaging.io import read_image, read_label, write_image
from medseg_core.types import Geometry

RNG = np.random.default_rng(0)
OBLIQUE = (0.0, -1.0, 0.0, 0.8, 0.0, -0.6, 0.6, 0.0, 0.8)  # columns: axes i, j, k


@pytest.fixture
def medseg(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    """A 2D model whose label files hold 0 and 255."""
    folder = tmp_path_factory.mktemp("square") / "model"
    write_trained(folder, task={"labels": {"square": 255}})
    return folder


@pytest.fixture(scope="module")
def organs(tmp_path_factory):
    """A 3D model of two labels on a grid of 2 mm."""
    folder = tmp_path_factory.mktemp("organs") / "model"
    task = {"spatial_dims": 3, "spacing_mm": [2.0, 2.0, 2.0], "labels": {"liver": 3, "spleen": 1}}
    write_trained(folder, task=task, training={"patch_size": [8, 8, 8]})
    return folder


def write_picture(path: Path, shape=(20, 30), channels=()) -> Path:
    Image.fromarray(RNG.integers(0, 256, (*shape, *channels), dtype=np.uint8)).save(path)
    return path


def write_scan(path: Path, shape=(10, 12, 9), voxels=None) -> Path:
    geometry = Geometry(shape, (1.0, 1.5, 3.0), (-7.0, 5.0, 11.0), OBLIQUE)
    write_image(path, RNG.normal(100, 20, shape).astype(np.float32) if voxels is None else voxels, geometry)
    return path


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_a_scan_gets_labels_on_its_own_grid_in_the_values_of_label_files(medseg, organs, tmp_path):
    scan = write_scan(tmp_path / "patient 7.nii.gz")

    outcome = medseg("predict", "--model", organs, "--image", scan, "--out", tmp_path / "out")

    assert outcome.code == 0, outcome.err
    assert files_in(tmp_path / "out") == {"patient 7_segmentation.nii.gz", "predictions.json"}
    image, written = sitk.ReadImage(scan), sitk.ReadImage(tmp_path / "out/patient 7_segmentation.nii.gz")
    assert written.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert written.GetSize() == image.GetSize()
    for fact in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(written, fact)() == pytest.approx(getattr(image, fact)(), abs=1e-5)
    assert set(np.unique(sitk.GetArrayFromImage(written))) <= {0, 1, 3}


@pytest.mark.parametrize("shape", [(12, 10, 1), (1, 12, 10)])
def test_a_slice_stays_where_it_lies_in_the_world(medseg, square, tmp_path, shape):
    scan = write_scan(tmp_path / "slice.nii.gz", shape)

    outcome = medseg("predict", "--model", square, "--image", scan, "--out", tmp_path / "out")

    assert outcome.code == 0, outcome.err
    image, written = sitk.ReadImage(scan), sitk.ReadImage(tmp_path / "out/slice_segmentation.nii.gz")
    for fact in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(written, fact)() == pytest.approx(getattr(image, fact)(), abs=1e-5)


def test_the_list_names_files_values_volumes_and_the_model(medseg, organs, tmp_path):
    scan = write_scan(tmp_path / "a.mha")

    medseg("predict", "--model", organs, "--image", scan, "--out", tmp_path / "out")

    listed = json.loads((tmp_path / "out/predictions.json").read_text())
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "out/a_segmentation.nii.gz"))
    (entry,) = listed["predictions"]
    assert (entry["images"], entry["segmentation"]) == (["a.mha"], "a_segmentation.nii.gz")
    for label, value in {"liver": 3, "spleen": 1}.items():
        count = int((voxels == value).sum())
        assert entry["labels"][label] == {
            "value": value,
            "voxels": count,
            "volume_ml": pytest.approx(count * 4.5e-3),
        }
    provenance = json.loads((organs / "provenance.json").read_text())
    assert listed["model"]["weights_sha256"] == provenance["weights_sha256"]
    assert listed["notice"] == "Research use only, not a medical device."
    assert str(tmp_path) not in json.dumps(listed)


def test_a_picture_gets_a_picture(medseg, square, tmp_path):
    picture = write_picture(tmp_path / "a.png")

    medseg("predict", "--model", square, "--image", picture, "--out", tmp_path / "out")

    with Image.open(tmp_path / "out/a_segmentation.png") as written:
        assert (written.size, written.mode) == ((30, 20), "L")
        assert set(np.unique(np.asarray(written))) == {0, 255}
    (entry,) = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]
    assert entry["labels"]["square"]["volume_ml"] is None


def test_a_stack_of_pictures_gets_a_stack_without_invented_millimetres(medseg, tmp_path):
    write_trained(tmp_path / "model", task={"spatial_dims": 3}, training={"patch_size": [8, 8, 8]})
    pages = [Image.fromarray(RNG.integers(0, 256, (9, 11), dtype=np.uint8)) for _ in range(6)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])

    outcome = medseg(
        "predict", "--model", tmp_path / "model", "--image", tmp_path / "a.tif", "--out", tmp_path / "out"
    )

    assert outcome.code == 0, outcome.err
    written = read_label(tmp_path / "out/a_segmentation.tif", spatial_dims=3, case_id="a")
    assert (written.geometry.shape, written.geometry.spacing_mm) == ((11, 9, 6), None)


def test_nothing_but_the_folder_of_the_model_is_needed(medseg, square, tmp_path):
    shutil.copytree(square, tmp_path / "elsewhere")
    picture = write_picture(tmp_path / "a.png")

    outcome = medseg(
        "predict", "--model", tmp_path / "elsewhere", "--image", picture, "--out", tmp_path / "out"
    )

    assert (outcome.code, files_in(tmp_path / "elsewhere")) == (0, files_in(square))


def test_several_images_may_follow_one_option_or_have_their_own(medseg, square, tmp_path):
    a, b, c = (write_picture(tmp_path / f"{name}.png") for name in "abc")

    outcome = medseg("predict", "--model", square, "--image", a, b, "--image", c, "--out", tmp_path / "out")

    assert "3 segmented" in outcome.out
    assert files_in(tmp_path / "out") == {"predictions.json", *(f"{n}_segmentation.png" for n in "abc")}


def test_channels_in_files_of_their_own_are_joined_by_commas(medseg, tmp_path):
    write_trained(tmp_path / "model", task={"channels": [{"name": "t1"}, {"name": "t2"}]})
    t1, t2 = write_picture(tmp_path / "a_t1.png"), write_picture(tmp_path / "a_t2.png")
    call = ("predict", "--model", tmp_path / "model", "--image")

    medseg(*call, f"{t1},{t2}", "--out", tmp_path / "right")
    medseg(*call, f"{t2},{t1}", "--out", tmp_path / "swapped")

    (entry,) = json.loads((tmp_path / "right/predictions.json").read_text())["predictions"]
    assert entry["images"] == ["a_t1.png", "a_t2.png"]
    first = (tmp_path / "right/a_t1_segmentation.png").read_bytes()
    assert first != (tmp_path / "swapped/a_t2_segmentation.png").read_bytes()


def test_a_comma_in_the_name_of_a_file_is_a_comma(medseg, square, tmp_path):
    picture = write_picture(tmp_path / "Doe, J.png")

    assert medseg("predict", "--model", square, "--image", picture, "--out", tmp_path / "out").code == 0


def test_in_colour_the_channels_are_those_of_the_file(medseg, tmp_path):
    write_trained(tmp_path / "model", task={"channels": [{"name": n} for n in ("red", "green", "blue")]})
    picture = write_picture(tmp_path / "a.png", channels=(3,))

    outcome = medseg("predict", "--model", tmp_path / "model", "--image", picture, "--out", tmp_path / "out")

    assert outcome.code == 0, outcome.err


def not_finite(path: Path) -> Path:
    voxels = np.ones((10, 12, 9), np.float32)
    voxels[3, 4, 5] = np.nan
    return write_scan(path, voxels=voxels)


def cut(path: Path) -> Path:
    write_scan(path)
    path.write_bytes(path.read_bytes()[:-300])
    return path


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda path: path, "there is no file"),
        (not_finite, "has 1 voxel(s) that are NaN or infinite"),
        (lambda path: write_scan(path, voxels=np.full((10, 12, 9), 5.0)), "is 5 everywhere"),
        (cut, "incomplete"),
        (lambda path: write_picture(path.parent / "a.png"), "2D (30x20) and the task is 3D"),
        (lambda path: f"{write_scan(path)},{path}", "2 channel(s)"),
    ],
)
def test_what_does_not_serve_is_refused_with_a_sentence_and_nothing_is_left(
    medseg, organs, tmp_path, make, fault
):
    image = make(tmp_path / "a.nii.gz")

    outcome = medseg("predict", "--model", organs, "--image", image, "--out", tmp_path / "out")

    assert outcome.code == 1
    assert "error: case a: " in outcome.err
    assert fault in outcome.err
    assert "Traceback" not in outcome.err
    assert files_in(tmp_path / "out") == set()


def test_good_images_are_segmented_though_others_do_not_serve(medseg, square, tmp_path):
    good = [write_picture(tmp_path / f"{name}.png") for name in "ab"]

    outcome = medseg(
        "predict",
        "--model",
        square,
        "--image",
        good[0],
        tmp_path / "no.png",
        good[1],
        "--out",
        tmp_path / "out",
    )

    assert outcome.code == 1
    assert "1 of 3 cases cannot be used" in outcome.err
    assert "case no: there is no file" in outcome.err
    assert files_in(tmp_path / "out") == {"predictions.json", "a_segmentation.png", "b_segmentation.png"}
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]) == 2


def test_no_file_is_ever_replaced(medseg, square, tmp_path):
    picture, drawn = write_picture(tmp_path / "a.png"), tmp_path / "a_segmentation.png"
    drawn.write_text("drawn by hand")

    outcome = medseg("predict", "--model", square, "--image", picture, "--out", tmp_path)

    assert outcome.code == 1
    assert "is there already, and is left as it is. Choose another --out" in outcome.err
    assert drawn.read_text() == "drawn by hand"


def test_two_images_of_one_name_are_refused(medseg, square, tmp_path):
    (tmp_path / "b").mkdir()
    images = write_picture(tmp_path / "a.png"), write_picture(tmp_path / "b/A.png")

    outcome = medseg("predict", "--model", square, "--image", *images, "--out", tmp_path / "out")

    assert outcome.code == 1
    assert "would both be segmented into A_segmentation.png" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model_is_told_so(medseg, tmp_path):
    picture = write_picture(tmp_path / "a.png")

    outcome = medseg("predict", "--model", tmp_path, "--image", picture, "--out", tmp_path / "out")

    assert outcome.code == 1
    assert "Give the model/ folder of a finished run" in outcome.err


def test_an_unknown_device_is_told(medseg, square, tmp_path):
    picture = write_picture(tmp_path / "a.png")
    words = ("--image", picture, "--out", tmp_path / "out", "--device", "abacus")

    outcome = medseg("predict", "--model", square, *words)

    assert outcome.code == 1
    assert "--device abacus: not on this machine" in outcome.err


def test_an_output_folder_that_is_a_file_is_told(medseg, square, tmp_path):
    picture = write_picture(tmp_path / "a.png")

    outcome = medseg("predict", "--model", square, "--image", picture, "--out", picture)

    assert outcome.code == 1
    assert "Choose another folder" in outcome.err


def test_the_written_labels_read_back_as_classes(medseg, tmp_path):
    labels = {"bone": [40, 41], "rest": "nonzero"}
    experiment = make_experiment(task={"labels": labels})
    write_trained(tmp_path / "model", task={"labels": labels})
    picture = write_picture(tmp_path / "a.png")

    medseg("predict", "--model", tmp_path / "model", "--image", picture, "--out", tmp_path / "out")

    written = read_label(tmp_path / "out/a_segmentation.png", spatial_dims=2, case_id="a").voxels
    assert set(np.unique(written)) <= {0, 40, 255}
    assert len(experiment.task.labels) == 2
    assert read_image(picture, spatial_dims=2, channels=1, case_id="a").geometry.shape == written.shape[1:]
