"""Rules of the task contract choose series, and name segments; reasons hold no text of a header."""

import pytest
from pydantic import ValidationError

from medseg_core.config import Channel, SeriesRules, Task
from medseg_core.imaging.dicom.scan import Series
from medseg_core.imaging.dicom.selection import choose_series, label_of


def make_series(modality="MR", description="ax T1 post", orientation="axial", thickness_mm=3.0):
    return Series(
        "1",
        "2",
        "3",
        modality,
        description,
        "4",
        (),
        orientation=orientation,
        slice_thickness_mm=thickness_mm,
    )


def channel(modality="MR", **rules):
    return Channel(name="t1", modality=modality, series=SeriesRules(**rules) if rules else None)


def reason(series, wanted):
    choice = choose_series([series], wanted)
    assert len(choice.chosen) + len(choice.left_out) == 1
    return choice.left_out[0].reason if choice.left_out else None


@pytest.mark.parametrize(
    ("modality", "wanted", "fits"),
    [("CT", "CT", True), ("PT", "PET", True), ("DX", "XR", True), ("CR", "XR", True), ("CT", "MR", False),
     ("US", "other", True), ("US", "US", False)],
)  # fmt: skip
def test_the_channels_modality_is_dicoms(modality, wanted, fits):
    told = reason(make_series(modality), channel(wanted))

    assert told == (None if fits else f"its modality is not {wanted}")


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"description": ["*t1*"]}, None),
        ({"description": ["AX T?*"]}, None),
        ({"description": ["*T2*", "*flair*"]}, "its description is none that the task asks for"),
        (
            {"description": ["*T1*"], "not_description": ["*post*"]},
            "its description is one that the task leaves out",
        ),
        ({"orientation": "axial"}, None),
        ({"orientation": "coronal"}, "its slices are axial, not coronal"),
        ({"slice_thickness_mm": [1, 3]}, None),
        ({"slice_thickness_mm": [0.5, 2]}, "its slices are 3 mm thick, not 0.5 to 2 mm"),
    ],
)
def test_every_rule_must_hold(rules, told):
    assert reason(make_series(), channel(**rules)) == told


def test_what_is_not_told_does_not_fit():
    series = make_series(orientation="", thickness_mm=None)

    assert reason(series, channel(orientation="axial")) == "its slices are of no known orientation, not axial"
    assert reason(series, channel(slice_thickness_mm=[1, 3])) == "its slice thickness is not told"


@pytest.mark.parametrize("name", ["Localizer", "3-plane loc", "SURVEY", "scout", "Topogram 0.6", "3Plane"])
def test_localisers_by_name_are_left_out_unless_asked_for(name):
    series = make_series(description=name)

    assert reason(series, channel()) == "its description says that it is a localiser"
    assert reason(series, channel(description=[name])) is None


@pytest.mark.parametrize("name", ["location of tumour", "ax T1 block", "velocity"])
def test_words_like_localiser_are_none(name):
    assert reason(make_series(description=name), channel()) is None


def test_series_come_out_in_the_order_in_which_they_came():
    series = [make_series(), make_series("CT"), make_series(thickness_mm=1.0)]
    choice = choose_series(series, channel())

    assert choice.chosen == (series[0], series[2])
    assert [one.series for one in choice.left_out] == [series[1]]


def make_task(**keys):
    return Task(
        name="t", spatial_dims=3, channels=(Channel(name="c"),), labels={"liver": 1, "tumour": 2}, **keys
    )


@pytest.mark.parametrize(
    ("name", "meaning", "segments", "label"),
    [
        ("Liver ", "", None, 1),
        ("Segment 1", "Liver", None, 1),
        ("GTV_Mass_CT", "", {"tumour": ["GTV*"]}, 2),
        ("tumour", "", {"tumour": ["GTV*"]}, None),
        ("liver", "", {"tumour": ["GTV*"]}, 1),
        ("liver tumour", "", {"liver": ["*liver*"], "tumour": ["*tumour*"]}, 1),
        ("spleen", "", None, None),
    ],
)
def test_a_segment_is_the_label_that_the_task_calls_so(name, meaning, segments, label):
    assert label_of(name, meaning, make_task(segments=segments)) == label


def test_names_for_a_label_that_is_none_are_a_fault():
    with pytest.raises(ValidationError, match="segments names 'spleen', which is none of the labels"):
        make_task(segments={"spleen": ["s*"]})


def test_slice_thickness_must_rise():
    with pytest.raises(ValidationError, match="slice_thickness_mm must rise"):
        SeriesRules(slice_thickness_mm=(3, 1))
