"""A case is opened whole and checked against its task; the first fault is told with its remedy."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cohort_files import SHAPE, make_case, make_image, make_label, make_task, write_array
from PIL import Image

from medseg_core.cohort.loading import load_case
from medseg_core.cohort.manifest import read_cohort
from medseg_core.data_errors import (
    ChannelCountError,
    ConstantImageError,
    EmptyLabelError,
    GeometryMismatchError,
    MissingLabelError,
    NotFiniteError,
    UnknownLabelError,
)
from medseg_core.types import IGNORE

DATA = Path(__file__).parents[4] / "shared" / "data"
TURNED = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def refusal_of(case, expected, task=None):
    with pytest.raises(expected) as refusal:
        load_case(case, task or make_task())
    assert str(refusal.value).startswith("case c1: ")
    assert str(refusal.value).endswith(".")
    return refusal.value


def test_image_in_its_own_units_and_label_as_classes(tmp_path):
    loaded = load_case(make_case(tmp_path), make_task(labels={"b": 2, "a": 1}))
    np.testing.assert_array_equal(loaded.image.voxels[0], make_image())
    np.testing.assert_array_equal(loaded.label, np.array([0, 2, 1], np.uint8)[make_label()])
    assert loaded.label.dtype == np.uint8
    assert loaded.warnings == ()


def test_one_file_a_channel(tmp_path):
    case = make_case(tmp_path)
    second = write_array(tmp_path / "t2.nii.gz", make_image(1))
    task = make_task(channels=({"name": "T1"}, {"name": "T2"}))
    loaded = load_case(replace(case, images=(case.images[0], second)), task)
    np.testing.assert_array_equal(loaded.image.voxels, [make_image(), make_image(1)])


def test_picture_beside_a_mask_with_millimetres_is_compared_by_size_alone(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    label = write_array(tmp_path / "l.nii.gz", np.eye(4, 5, dtype=np.uint8), spacing=(0.3, 0.3))
    case = replace(make_case(tmp_path), images=(tmp_path / "a.png",), label=label)
    assert load_case(case, make_task(spatial_dims=2)).label.shape == (4, 5)


@pytest.mark.parametrize(
    ("changes", "quantity", "told"),
    [
        ({"label": make_label()[:, :4]}, "shape", "label shape (4, 4, 6) differs from image (4, 5, 6)"),
        (
            {"spacing": (1.0, 1.0, 3.0)},
            "spacing",
            "label spacing (1, 1, 3) mm differs from image (1, 1, 1) mm",
        ),
        (
            {"origin": (0.0, 0.5, 0.0)},
            "origin",
            "label origin (0, 0.5, 0) mm differs from image (0, 0, 0) mm",
        ),
        (
            {"direction": TURNED},
            "direction",
            "label direction (0, 1, 0, -1, 0, 0, 0, 0, 1) differs from image",
        ),
    ],
)
def test_label_on_another_grid(tmp_path, changes, quantity, told):
    refusal = refusal_of(make_case(tmp_path, **changes), GeometryMismatchError)
    assert refusal.quantity == quantity
    assert told in refusal.fault
    assert refusal.remedy == "Resample the label onto the image's grid, or correct its header."


@pytest.mark.parametrize(
    "rounding",
    [
        {"spacing": (1.0005, 1.0, 1.0)},
        {"origin": (0.05, 0.0, 0.0)},
        {"direction": (np.cos(5e-4), -np.sin(5e-4), 0, np.sin(5e-4), np.cos(5e-4), 0, 0, 0, 1)},
    ],
)
def test_rounding_of_headers_is_no_fault(tmp_path, rounding):
    load_case(make_case(tmp_path, **rounding), make_task())


def test_origin_is_compared_in_voxels(tmp_path):
    thick = {"spacing": (1.0, 1.0, 10.0)}
    case = make_case(tmp_path, **thick, origin=(0.0, 0.0, 0.9))
    write_array(case.images[0], make_image(), **thick)
    load_case(case, make_task())
    write_array(case.label, make_label(), **thick, origin=(0.0, 0.9, 0.0))
    assert refusal_of(case, GeometryMismatchError).quantity == "origin"


def test_channels_on_different_grids(tmp_path):
    case = make_case(tmp_path)
    second = write_array(tmp_path / "t2.nii.gz", make_image(1), spacing=(1.0, 1.0, 2.0))
    task = make_task(channels=({"name": "T1"}, {"name": "T2"}))
    refusal = refusal_of(replace(case, images=(case.images[0], second)), GeometryMismatchError, task)
    assert (
        refusal.remedy
        == "Resample the channel t2.nii.gz onto the channel c1.nii.gz's grid, or correct its header."
    )


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_image_with_nan(tmp_path, value, suffix):
    image = make_image()
    image[0, 0, :3] = value
    case = replace(make_case(tmp_path), images=(write_array(tmp_path / f"bad{suffix}", image),))
    refusal = refusal_of(case, NotFiniteError)
    assert "3 voxel(s) that are NaN or infinite" in refusal.fault
    assert refusal.remedy == "Replace them by the background's value, or export the image again."


def test_constant_image(tmp_path):
    refusal = refusal_of(make_case(tmp_path, image=np.full(SHAPE, 7, np.int16)), ConstantImageError)
    assert refusal.fault == "channel T1 is 7 everywhere"
    assert refusal.remedy == "Export the image again, or take the case out of the list."


def test_label_without_foreground_is_a_warning_unless_the_task_forbids_it(tmp_path):
    case = make_case(tmp_path, label=np.zeros(SHAPE, np.uint8))
    assert load_case(case, make_task()).warnings == ("case c1: the label has no foreground voxel",)
    refusal = refusal_of(case, EmptyLabelError, make_task(allow_empty_label=False))
    assert "allow_empty_label = true" in refusal.remedy


def test_label_with_ignored_voxels_alone_is_empty(tmp_path):
    loaded = load_case(make_case(tmp_path, label=np.full(SHAPE, 9, np.uint8)), make_task(ignore_value=9))
    assert (loaded.label == IGNORE).all()
    assert len(loaded.warnings) == 1


def test_unknown_label_value(tmp_path):
    refusal = refusal_of(make_case(tmp_path, label=make_label() * 4), UnknownLabelError)
    assert refusal.values == (4, 8)


def test_label_is_asked_for_unless_the_caller_can_do_without(tmp_path):
    case = replace(make_case(tmp_path), label=None)
    assert "Add its label to the list" in refusal_of(case, MissingLabelError).remedy
    assert load_case(case, make_task(), needs_label=False).label is None


def test_other_number_of_files_than_channels(tmp_path):
    case = make_case(tmp_path)
    second = write_array(tmp_path / "t2.nii.gz", make_image(1))
    refusal = refusal_of(replace(case, images=(case.images[0], second)), ChannelCountError)
    assert refusal.remedy == "Name 2 in [task] channels, or give files with 1."


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the published sets are not at {DATA}")
def test_205_published_cases_take_less_than_three_seconds_of_one_core():
    task = make_task(labels={"anterior": 1, "posterior": 2})
    cases = read_cohort(DATA / "hippocampus", task).cases
    start = time.process_time()  # counts what this process used, not what its neighbours took
    for case in cases[:41]:
        load_case(case, task)
    assert len(cases) == 205
    assert (time.process_time() - start) * 5 < 3 * 2  # type checks of the test run included
