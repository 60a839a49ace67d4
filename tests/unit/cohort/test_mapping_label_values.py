"""Values in label files become the task's classes; values that nothing names are refused."""

import numpy as np
import pytest
from cohort_files import make_task
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from medseg_core.cohort.labels import count_values, label_name, map_labels
from medseg_core.data_errors import UnknownLabelError
from medseg_core.types import IGNORE


def mapped(values, dtype=np.int32, **task):
    return map_labels(np.array([values], dtype=dtype), make_task(**task), case_id="c1")[0].tolist()


def test_classes_follow_the_order_of_the_task():
    assert mapped([0, 7, 3], labels={"b": 7, "a": 3}) == [0, 1, 2]


def test_several_values_may_be_one_class():
    assert mapped([0, 1, 2, 4], labels={"tumour": (1, 4), "oedema": 2}) == [0, 1, 2, 1]


def test_nonzero_takes_what_no_other_label_names():
    assert mapped([0, 1, 9, 255, -3], labels={"vessel": "nonzero", "disc": 9}) == [0, 1, 2, 1, 1]


def test_ignored_value_wins():
    assert mapped([0, 1, 99], labels={"a": "nonzero"}, ignore_value=99) == [0, 1, IGNORE]


def test_value_255_is_a_class_unless_it_is_ignored():
    assert mapped([0, 255], dtype=np.uint8, labels={"vessel": 255}) == [0, 1]


def test_zero_may_be_foreground_or_ignored():
    assert mapped([0, 5], labels={"a": 0, "b": 5}) == [1, 2]
    assert mapped([0, 5], labels={"b": 5}, ignore_value=0) == [IGNORE, 1]


@pytest.mark.parametrize("far", [-1, 70_000, 2**31 - 1])
def test_values_far_apart_are_mapped_alike(far):
    assert mapped([0, 1, far, 1], labels={"a": 1, "far": far}) == [0, 1, 2, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int64])
def test_every_integer_type(dtype):
    assert mapped([0, 1, 100], dtype=dtype, labels={"a": 1, "b": 100}) == [0, 1, 2]


def test_unknown_values_are_named_beside_the_known_ones():
    with pytest.raises(UnknownLabelError) as refusal:
        mapped([0, 1, 3, 8], labels={"a": 1, "b": (2, 4)}, ignore_value=9)
    assert refusal.value.values == (3, 8)
    assert str(refusal.value) == (
        "case c1: the label has the unknown value(s) 3, 8. Known are 0 (background), 1 (a), 2/4 (b), 9 (ignored). "
        "Add to [task] labels, set ignore_value, or correct the label. What one site alone writes belongs into labels "
        "of that site, or [task] background."
    )


def test_a_photograph_given_as_label_lists_only_some_of_its_values():
    with pytest.raises(UnknownLabelError, match=r"3, 4, 5, 6, 7, 8, 9, 10 and 245 more\."):
        mapped(range(256))


@given(npst.arrays(np.int32, (3, 4), elements=st.sampled_from([-5, 0, 1, 2, 300, 70_000])))
def test_counts_are_those_of_numpy(labels):
    values, counts = np.unique(labels, return_counts=True)
    assert count_values(labels) == dict(zip(values.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize(("value", "name"), [(0, None), (1, "a"), (2, "b"), (7, "7"), (9, "(ignored)")])
def test_name_of_a_value(value, name):
    assert label_name(value, make_task(ignore_value=9)) == name
    assert label_name(value, None) == (str(value) if value else None)
