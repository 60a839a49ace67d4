"""Decathlon and nnU-Net folders are recognised by their arrangement; anything else is told what is."""

import json

import numpy as np
import pytest
from cohort_files import make_label, make_task, write_array, write_manifest

from medseg_core.cohort.loading import load_case
from medseg_core.cohort.manifest import read_cohort
from medseg_core.data_errors import (
    ChannelNamesError,
    ImageWithoutChannelError,
    MissingFileError,
    UnknownLayoutError,
    UnreadableManifestError,
)

TWO_CHANNELS = ({"name": "T1"}, {"name": "T2"})


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def describe(folder, **document):
    (folder / "dataset.json").write_text(json.dumps(document))


def names_of(cohort):
    return [(c.case_id, [p.name for p in c.images], c.label and c.label.name) for c in cohort.cases]


def test_decathlon_folder(tmp_path):
    touch(
        tmp_path,
        "imagesTr/h_001.nii.gz",
        "imagesTr/h_003.nii.gz",
        "imagesTr/._h_001.nii.gz",
        "imagesTr/notes.txt",
    )
    touch(tmp_path, "labelsTr/h_001.nii.gz", "imagesTs/h_009.nii.gz")
    describe(tmp_path, modality={"0": "MRI"}, training=[{"image": "./imagesTr/h_001.nii.gz", "label": "x"}])
    cohort = read_cohort(tmp_path, make_task())
    assert cohort.layout == "decathlon"
    assert cohort.channels == ("MRI",)
    assert names_of(cohort) == [
        ("h_001", ["h_001.nii.gz"], "h_001.nii.gz"),
        ("h_003", ["h_003.nii.gz"], None),
    ]
    assert [(c.patient_id, c.site) for c in cohort.cases] == [("h_001", ""), ("h_003", "")]
    assert "every case counts as a patient of its own" in cohort.warnings[0]


def test_decathlon_case_that_is_listed_and_absent_is_reported_when_it_is_opened(tmp_path):
    touch(tmp_path, "imagesTr/h_001.nii.gz")
    describe(tmp_path, training=[{"image": "./imagesTr/h_002.nii.gz"}, {"image": "./imagesTr/h_001.nii.gz"}])
    cohort = read_cohort(tmp_path, make_task())
    assert [c.case_id for c in cohort.cases] == ["h_001", "h_002"]
    with pytest.raises(MissingFileError, match=r"there is no file .*h_002\.nii\.gz\. Correct the path"):
        load_case(cohort.cases[1], make_task())


def test_decathlon_volume_with_channels_in_its_last_axis(tmp_path):
    write_array(
        tmp_path / "imagesTr" / "b_1.nii.gz",
        np.random.default_rng(0).normal(size=(4, 5, 6, 2)).astype(np.float32),
        spacing=(1.0,) * 4,
        origin=(0.0,) * 4,
    )
    write_array(tmp_path / "labelsTr" / "b_1.nii.gz", make_label())
    describe(tmp_path, modality={"1": "T2", "0": "T1"})
    task = make_task(channels=TWO_CHANNELS)
    cohort = read_cohort(tmp_path, task)
    assert cohort.channels == ("T1", "T2")
    assert load_case(cohort.cases[0], task).image.voxels.shape == (2, 4, 5, 6)


def test_nnunet_folder(tmp_path):
    touch(tmp_path, *(f"imagesTr/c_{case}_000{n}.nii.gz" for case in (1, 2) for n in (0, 1)))
    touch(tmp_path, "labelsTr/c_1.nii.gz", "labelsTr/c_2.nii.gz", "labelsTr/c_9.nii.gz")
    describe(tmp_path, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0}, file_ending=".nii.gz")
    cohort = read_cohort(tmp_path, make_task(channels=TWO_CHANNELS))
    assert cohort.layout == "nnunet"
    assert names_of(cohort) == [
        (f"c_{n}", [f"c_{n}_0000.nii.gz", f"c_{n}_0001.nii.gz"], f"c_{n}.nii.gz") for n in (1, 2)
    ]
    assert "the label c_9.nii.gz has no image and is left out" in cohort.warnings


def test_nnunet_folder_without_a_description(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.png", "labelsTr/a.png")
    assert read_cohort(tmp_path, None).layout == "nnunet"


def test_four_digits_in_a_decathlon_name_are_no_channel(tmp_path):
    touch(tmp_path, "imagesTr/scan_0001.nii.gz", "labelsTr/scan_0001.nii.gz")
    assert names_of(read_cohort(tmp_path, None)) == [("scan_0001", ["scan_0001.nii.gz"], "scan_0001.nii.gz")]


def test_nnunet_case_without_its_first_channel_names_the_file(tmp_path):
    touch(tmp_path, "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    task = make_task(channels=TWO_CHANNELS)
    with pytest.raises(MissingFileError, match=r"a_0000\.nii\.gz"):
        load_case(read_cohort(tmp_path, task).cases[0], task)


def test_nnunet_file_without_a_channel_number(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz")
    describe(tmp_path, channel_names={"0": "T1"})
    with pytest.raises(
        ImageWithoutChannelError, match=r"a\.nii\.gz has no channel number\. Name it CASE_0000\.nii\.gz"
    ):
        read_cohort(tmp_path, None)


def test_manifest_wins_over_recognition(tmp_path):
    touch(tmp_path, "imagesTr/h_001.nii.gz", "labelsTr/h_001.nii.gz")
    write_manifest(tmp_path, "c1,p1,A,imagesTr/h_001.nii.gz,labelsTr/h_001.nii.gz")
    assert read_cohort(tmp_path, None).layout == "manifest"


def test_other_number_of_channels_than_the_task(tmp_path):
    touch(tmp_path, "imagesTr/h_001.nii.gz")
    describe(tmp_path, modality={"0": "FLAIR", "1": "T1"})
    with pytest.raises(
        ChannelNamesError, match=r"2 channel\(s\) \(FLAIR, T1\) and the task 1 \(T1\)\. Make \[task\]"
    ):
        read_cohort(tmp_path, make_task())


@pytest.mark.parametrize("text", ["{", "[]", "\xff\xfe"])
def test_description_that_is_no_json_object(tmp_path, text):
    touch(tmp_path, "imagesTr/h_001.nii.gz")
    (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
    with pytest.raises(UnreadableManifestError, match="Correct it, or remove it"):
        read_cohort(tmp_path, None)


def test_images_without_a_list_are_told_which_layouts_are_known(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.png", "readme.txt")
    with pytest.raises(UnknownLayoutError) as refusal:
        read_cohort(tmp_path, None)
    told = str(refusal.value)
    assert "it holds 2 image files, but no list of cases. Add manifest.csv with the columns case_id" in told
    assert "Decathlon layout (dataset.json, imagesTr, labelsTr) or nnU-Net's" in told


def test_folder_one_level_too_high_is_told_the_right_one(tmp_path):
    touch(tmp_path, "Task04/imagesTr/h_001.nii.gz", "other/manifest.csv", "empty/x")
    with pytest.raises(UnknownLayoutError, match=r"Give one of its folders: Task04, other\."):
        read_cohort(tmp_path, None)
