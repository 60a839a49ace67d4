"""Cases that lack an optional channel: accepted in lists, zeros for the network, and practised by dropping channels."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import make_experiment
from cohort_files import SHAPE, make_case, make_image, make_task, write_array, write_manifest

from medseg_core.cohort.augmentation import augment
from medseg_core.cohort.cache import prepare_cases
from medseg_core.cohort.checks import check_cohort
from medseg_core.cohort.manifest import read_cohort
from medseg_core.config import Augmentation
from medseg_core.data_errors import BlankCellError, ManifestColumnError, ManifestRowError, MissingChannelError

TASK = make_task(channels=({"name": "T1"}, {"name": "T2", "optional": True}))
EITHER = make_task(channels=({"name": "T1", "optional": True}, {"name": "T2", "optional": True}))
WINDOWED = make_task(
    channels=(
        {"name": "T1"},
        {"name": "CT", "optional": True, "normalisation": "window", "window": (-100.0, 300.0)},
    )
)
HEADER = "case_id,patient_id,site,image_T1,image_T2,label"


# ---- lists --------------------------------------------------------------------------------------------------


def test_a_blank_cell_of_an_optional_channel_is_a_channel_that_the_case_has_not(tmp_path):
    write_manifest(tmp_path, "c1,p1,A,a.png,,l.png", "c2,p2,A,b.png,c.png,m.png", header=HEADER)

    first, second = read_cohort(tmp_path, TASK).cases

    assert ([path.name for path in first.images], first.missing) == (["a.png"], (1,))
    assert ([path.name for path in second.images], second.missing) == (["b.png", "c.png"], ())


def test_a_site_without_the_whole_column_is_accepted(tmp_path):
    write_manifest(
        tmp_path, "c1,p1,A,a.png,l.png,good", header="case_id,patient_id,site,image_T1,label,grade"
    )

    (case,) = read_cohort(tmp_path, TASK).cases

    assert (case.missing, dict(case.attributes)) == ((1,), {"grade": "good"})


@pytest.mark.parametrize(
    ("task", "header", "row", "error", "told"),
    [
        (TASK, HEADER, "c1,p1,A,,b.png,l.png", BlankCellError, "line 2 has no image_T1"),
        (EITHER, HEADER, "c1,p1,A,,,l.png", ManifestRowError, "line 2 has no image. Name one image"),
        (
            TASK,
            HEADER.replace("_T2", "_t2"),
            "c1,p1,A,a.png,b.png,l.png",
            ManifestColumnError,
            "Rename 'image_t2' to 'image_T2'",
        ),
        (  # T2 is another channel of the task: no name for T1
            TASK,
            "case_id,patient_id,site,image_T2,label",
            "c1,p1,A,b.png,l.png",
            ManifestColumnError,
            "there is no column 'image_T1'. Found are ",
        ),
        (
            make_task(channels=({"name": "T1"}, {"name": "T2"})),
            HEADER,
            "c1,p1,A,a.png,,l",
            BlankCellError,
            "image_T2",
        ),
    ],
)
def test_what_is_missing_without_leave_is_refused(tmp_path, task, header, row, error, told):
    write_manifest(tmp_path, row, header=header)
    with pytest.raises(error, match=re.escape(told)):
        read_cohort(tmp_path, task)


# ---- images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [TASK, WINDOWED])
def test_a_missing_channel_is_zeros_after_normalisation(tmp_path, task):
    whole, partial = make_case(tmp_path), replace(make_case(tmp_path), missing=(1,))

    prepared = prepare_cases([partial], task, tmp_path / "cache", threads=1)

    assert not prepared.faults
    image = prepared.cases["c1"].image
    assert image.shape == (2, *SHAPE)
    assert not image[1].any()
    alone = prepare_cases([whole], make_task(), tmp_path / "cache", threads=1).cases["c1"].image
    np.testing.assert_array_equal(image[0], alone[0])


def test_one_file_as_either_channel_is_cached_as_two_cases(tmp_path):
    case = make_case(tmp_path)
    first, second = (
        prepare_cases([replace(case, missing=(n,))], EITHER, tmp_path / "cache", threads=1) for n in (1, 0)
    )
    assert second.n_read == 1
    np.testing.assert_array_equal(first.cases["c1"].image, second.cases["c1"].image[::-1])


def test_a_check_finds_no_fault_in_cases_without_an_optional_channel(tmp_path):
    make_case(tmp_path, "c1")
    make_case(tmp_path, "c2", image=make_image(2))
    write_array(tmp_path / "c2_t2.nii.gz", make_image(1))
    rows = "c1,p1,A,c1.nii.gz,,c1_label.nii.gz", "c2,p2,B,c2.nii.gz,c2_t2.nii.gz,c2_label.nii.gz"
    write_manifest(tmp_path, *rows, header=HEADER)

    report = check_cohort(read_cohort(tmp_path, TASK), TASK)

    assert report.is_sound
    assert report.warnings == ()


def test_a_channel_that_the_task_needs_is_named(tmp_path):
    case = replace(make_case(tmp_path), missing=(0,))
    (fault,) = prepare_cases([case], TASK, tmp_path / "cache", threads=1).faults
    assert isinstance(fault.error, MissingChannelError)
    assert str(fault.error) == (
        "case c1: there is no image of channel T1. Give the file; only a task that has it as optional does without."
    )


# ---- dropping -----------------------------------------------------------------------------------------------

QUIET = dict.fromkeys(
    ("rotation", "scaling", "gamma", "contrast", "brightness", "noise", "blur", "low_resolution"), 0.0
)
LABELS = torch.zeros(400, 4, 4, dtype=torch.uint8)


def augmented(images, optional, **settings):
    return augment(
        images,
        LABELS[: len(images)],
        Augmentation(**(QUIET | settings)),
        torch.Generator().manual_seed(0),
        optional=optional,
    )[0]


def kept(images):
    """Share of the samples in which each channel is there."""
    return images.flatten(2).any(2).float().mean(0).tolist()


def test_optional_channels_are_dropped_as_often_as_asked_for_and_others_never():
    shares = kept(augmented(torch.ones(400, 3, 4, 4), (1, 2), channel_dropout=0.3))
    assert shares[0] == 1
    assert shares[1:] == pytest.approx([0.7, 0.7], abs=0.06)


def test_what_is_not_dropped_stays_bit_for_bit_and_so_does_the_argument():
    images = torch.randn(400, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    shown = augmented(images, (1,), channel_dropout=0.5)
    there = shown.flatten(2).any(2)
    assert torch.equal(shown[there], images[there])
    assert torch.equal(images, before)


@pytest.mark.parametrize("dropout", [0.5, 0.9, 1.0])
def test_where_all_channels_would_be_dropped_one_of_them_stays(dropout):
    images = torch.ones(400, 2, 4, 4)
    shown = augmented(images, (0, 1), channel_dropout=dropout)
    assert shown.flatten(1).any(1).all()
    alone = (shown.flatten(2).any(2).sum(1) == 1).float().mean().item()
    assert alone == pytest.approx(1 - (1 - dropout) ** 2, abs=0.06)
    assert kept(shown) == pytest.approx([1 - alone / 2] * 2, abs=0.06)


def test_where_all_channels_are_missing_none_comes_back():
    images = torch.zeros(20, 2, 4, 4)
    assert not augmented(images, (0, 1), channel_dropout=1.0, noise=1.0).any()


def test_never_are_all_channels_dropped():
    images = torch.ones(400, 2, 4, 4)
    images[:, 0] = 0  # missing: the other one is all that there is
    assert kept(augmented(images, (0, 1), channel_dropout=1.0)) == [0, 1]


def test_noise_does_not_fill_a_missing_channel():
    images = torch.ones(20, 2, 4, 4)
    images[:, 1] = 0
    assert kept(augmented(images, (1,), noise=1.0)) == [1, 0]
    assert kept(augmented(images, (), noise=1.0)) == [1, 1]  # a channel that must be there


def test_dropping_needs_a_channel_that_may_be_missing():
    with pytest.raises(ValueError, match="write optional = true for one"):
        make_experiment(training={"augmentation": {"channel_dropout": 0.2}})
