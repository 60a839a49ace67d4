"""A site's own label values become the task's; labels that it does not annotate become background that may be them."""

import re

import numpy as np
import pytest
from cohort_files import make_case, make_label, make_task
from pydantic import ValidationError

from medseg_core.cohort.cache import prepare_readings
from medseg_core.cohort.checks import check_cohort
from medseg_core.cohort.labels import map_labels
from medseg_core.cohort.manifest import Cohort
from medseg_core.cohort.reading import Reading
from medseg_core.config import SiteLabels, Task
from medseg_core.data_errors import UnknownLabelError
from medseg_core.types import IGNORE

TASK = make_task(labels={"tumour": (1, 4), "oedema": 2, "necrosis": 3})


def at_site(task: Task = TASK, **own: object) -> Task:
    return task.at_site(SiteLabels.model_validate(own))


def mapped(task: Task, *values: int) -> list[int]:
    return map_labels(np.array([values]), task, case_id="c1")[0].tolist()


def test_a_site_without_labels_of_its_own_has_the_task_as_it_is():
    assert at_site() == TASK
    assert TASK.not_annotated == ()


def test_values_of_a_site_are_renamed_and_merged_and_the_others_stay():
    here = at_site(labels={"tumour": 500, "oedema": [600, 601]})
    assert mapped(here, 0, 500, 600, 601, 3) == [0, 1, 2, 2, 3]
    assert here.not_annotated == ()


def test_two_labels_may_change_places():
    assert mapped(at_site(labels={"oedema": 3, "necrosis": 2}), 2, 3) == [3, 2]


def test_what_a_site_draws_beyond_the_task_is_background():
    assert mapped(at_site(background=[7, 9]), 0, 7, 9, 2) == [0, 0, 0, 2]
    assert mapped(make_task(background=[7]), 0, 7, 2) == [0, 0, 2]


def test_a_label_that_is_not_annotated_is_background_also_where_a_file_holds_it():
    here = at_site(not_annotated=["tumour", "necrosis"])
    assert mapped(here, 0, 1, 2, 3, 4) == [0, 0, 2, 0, 0]
    assert here.not_annotated == (1, 3)
    assert here.n_classes == TASK.n_classes


def test_a_site_may_use_the_value_of_a_label_that_it_does_not_annotate():
    here = at_site(labels={"oedema": 1}, not_annotated=["tumour"])
    assert mapped(here, 0, 1, 3, 4) == [0, 2, 3, 0]


def test_values_that_nothing_names_are_still_refused():
    with pytest.raises(
        UnknownLabelError, match=re.escape("Known are 0/1/4 (background), 2 (oedema), 3 (nec")
    ):
        mapped(at_site(not_annotated=["tumour"]), 8)


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"labels": {"edema": 2}}, "no label 'edema'; known are tumour, oedema, necrosis"),
        ({"not_annotated": ["edema"]}, "no label 'edema'"),
        ({"labels": {"oedema": 3}}, "value 3 would be both oedema and necrosis"),
        ({"background": [2]}, "value 2 would be both oedema and background"),
        ({"labels": {"oedema": []}}, "name it in not_annotated instead"),
        ({"labels": {"oedema": 2}, "not_annotated": ["oedema"]}, "take it out of one"),
        ({"not_annotated": ["tumour", "oedema", "necrosis"]}, "a site needs one to train on"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(own, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        at_site(**own)


IGNORING = make_task(labels={"tumour": 1, "oedema": 2}, ignore_value=9)


@pytest.mark.parametrize(
    ("own", "name"), [({"labels": {"oedema": [3, 9]}}, "oedema"), ({"background": [9]}, "background")]
)
def test_a_site_cannot_mean_something_by_the_value_that_is_left_out(own, name):
    with pytest.raises(ValueError, match=f"value 9 would be both {name} and what ignore_value leaves out"):
        at_site(IGNORING, **own)
    assert mapped(at_site(IGNORING, labels={"oedema": 3}), 3, 9) == [2, IGNORE]


@pytest.mark.parametrize(
    ("task", "name"),
    [({"labels": {"a": 1, "b": (2, 9)}}, "label b"), ({"labels": {"a": 1}, "background": [9]}, "background")],
)
def test_a_task_whose_label_or_background_would_be_left_out_is_refused(task, name):
    with pytest.raises(ValidationError, match=f"ignore_value = 9 is a value of {name}, too.* another value"):
        make_task(**task, ignore_value=9)


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        ({"labels": {"a": 1, "b": (2, 1)}}, "value 1 would be both a and b"),
        ({"labels": {"a": 1}, "background": [5, 1]}, "value 1 would be both a and background"),
        ({"labels": {"a": "nonzero", "b": "nonzero"}}, 'labels a and b are both "nonzero"'),
        ({"labels": {"a": 2**31}}, "less than 2147483648"),
        ({"orientation": "LLP"}, "orientation LLP needs one letter each of R or L, A or P, S or I"),
    ],
)
def test_a_task_in_which_a_value_or_an_axis_is_two_things_is_refused(task, fault):
    with pytest.raises(ValidationError, match=fault):
        make_task(**task)


def test_a_prepared_case_knows_what_its_site_does_not_annotate(tmp_path):
    case, task = make_case(tmp_path), make_task()
    readings = [(case, Reading(task)), (case, Reading(at_site(task, not_annotated=["b"])))]

    found = [prepare_readings([one], tmp_path / "cache", threads=1) for one in readings * 2]

    whole, partial, *_ = [prepared.cases["c1"] for prepared in found]
    assert [prepared.n_read for prepared in found] == [1, 1, 0, 0]
    assert [prepared.cases["c1"].not_annotated for prepared in found] == [(), (2,)] * 2
    np.testing.assert_array_equal(whole.label, make_label())
    np.testing.assert_array_equal(partial.label, np.where(make_label() == 1, 1, 0))
    assert set(partial.foreground[:, 0]) == {1}  # patches are centred on what is known


def test_a_check_holds_each_case_to_its_own_values(tmp_path):
    case, task = make_case(tmp_path, label=make_label() * 10), make_task()
    here = at_site(task, labels={"a": 10}, background=[20], not_annotated=["b"])
    cohort = Cohort((case,), tmp_path, "manifest")

    report = check_cohort(cohort, task, at_case={"c1": here})

    assert not check_cohort(cohort, task).is_sound
    assert report.is_sound
    assert report.facts[0].label_voxels == {"a": 40}
