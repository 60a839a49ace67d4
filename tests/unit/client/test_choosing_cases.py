"""Which series of a study are a case: by channel, by what is drawn on them, or a reason."""

from pathlib import Path
from typing import Any

import pytest

from medseg_client.importing.choice import choose_cases
from medseg_client.importing.source import Study
from medseg_core.config import Task
from medseg_core.data_errors import MissingChannelError
from medseg_core.imaging.dicom.scan import Series
from medseg_core.import_errors import AmbiguousChannelError


def task(*channels: dict[str, Any]) -> Task:
    return Task.model_validate(
        {"name": "x", "spatial_dims": 3, "channels": channels, "labels": {"tumour": 1}}
    )


MR = task({"name": "t1", "modality": "MR"})
PET_CT = task({"name": "ct", "modality": "CT"}, {"name": "pet", "modality": "PET", "optional": True})


def series(uid: str, modality: str, *, drawn_on: tuple[str, ...] = ()) -> Series:
    return Series(uid, "1.2", "P", modality, "", "", (Path("x"),), referenced_series_uids=drawn_on)


def study(*images: Series, drawn: tuple[Series, ...] = ()) -> Study:
    return Study("1.2", "P", images, (), drawn)


def uids(found: Study, of: Task) -> list[dict[int, str]]:
    cases = choose_cases(found, of, "case-1").cases
    return [{n: one.series_uid for n, one in case.items()} for case in cases]


def test_the_series_of_the_modality_is_the_case() -> None:
    found = study(series("1", "MR"), series("2", "CT"))
    assert uids(found, MR) == [{0: "1"}]
    (unused,) = choose_cases(found, MR, "case-1").unused
    assert (unused.series.series_uid, unused.reason) == ("2", "its modality is not MR")


def test_of_several_series_those_count_that_something_is_drawn_on() -> None:
    found = study(series("1", "MR"), series("2", "MR"), drawn=(series("3", "RTSTRUCT", drawn_on=("2",)),))
    assert uids(found, MR) == [{0: "2"}]
    (unused,) = choose_cases(found, MR, "case-1").unused
    assert unused.reason == "labels are drawn on another series of its study"


def test_several_series_with_labels_are_cases_each() -> None:
    found = study(series("1", "MR"), series("2", "MR"), drawn=(series("3", "RTSTRUCT", drawn_on=("1", "2")),))
    assert uids(found, MR) == [{0: "1"}, {0: "2"}]


def test_channels_of_one_study_are_one_case_and_an_optional_one_may_be_absent() -> None:
    both = study(series("1", "CT"), series("2", "PT"))
    assert uids(both, PET_CT) == [{0: "1", 1: "2"}]
    assert uids(study(series("1", "CT")), PET_CT) == [{0: "1"}]


def test_a_study_that_no_channel_asks_for_is_no_case_and_no_fault() -> None:
    assert uids(study(series("1", "CT")), MR) == []


def test_a_study_without_a_required_channel_is_a_fault() -> None:
    with pytest.raises(MissingChannelError, match="case case-1: there is no image of channel ct"):
        choose_cases(study(series("2", "PT")), PET_CT, "case-1")


def test_two_series_for_one_of_several_channels_are_a_fault() -> None:
    found = study(series("1", "CT"), series("2", "CT"), series("3", "PT"))
    with pytest.raises(
        AmbiguousChannelError, match=r"2 series of the study are channel ct.*Narrow series under"
    ):
        choose_cases(found, PET_CT, "case-1")
