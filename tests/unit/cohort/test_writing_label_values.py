"""Which value stands for a class in a label file."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg_core.cohort.labels import file_values, map_labels
from medseg_core.config import Task

# No two labels share a value, and 0 is the background: then a file tells the classes apart.
VALUES = st.lists(st.integers(-5, 300).filter(bool), min_size=1, max_size=12, unique=True)


def make_task(labels, ignore_value=None):
    return Task.model_validate(
        {
            "name": "t",
            "spatial_dims": 2,
            "channels": [{"name": "c"}],
            "labels": {f"l{n}": wanted for n, wanted in enumerate(labels)},
            "ignore_value": ignore_value,
        }
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 2], [0, 1, 2]),
        ([255], [0, 255]),
        ([[7, 3]], [0, 7]),
        (["nonzero"], [0, 255]),
        ([[3, 4], "nonzero"], [0, 3, 255]),
        ([255, "nonzero"], [0, 255, 1]),
        ([-1, 300], [0, -1, 300]),
    ],
)
def test_a_class_has_the_first_value_of_its_label_or_one_that_is_free(labels, expected):
    assert file_values(make_task(labels)).tolist() == expected


def test_the_value_for_not_annotated_is_never_a_class():
    assert file_values(make_task(["nonzero"], ignore_value=255)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([1, 255], np.uint8),
        ([256], np.uint16),
        ([70000], np.uint32),
        ([-1, 3], np.int16),
        ([-1, 127], np.int16),
    ],
)
def test_values_come_in_a_type_that_holds_them(labels, kind):
    assert file_values(make_task(labels)).dtype == kind


@given(values=VALUES, ignore=st.none() | st.integers(-5, 300).filter(bool), rest=st.booleans())
def test_what_is_written_is_read_back_as_the_same_classes(values, ignore, rest):
    labels = [value for value in values if value != ignore] + (["nonzero"] if rest else [])
    if not labels:
        return
    task = make_task(labels, ignore)
    classes = np.arange(task.n_classes, dtype=np.uint8)

    written = file_values(task)[classes]

    assert map_labels(written, task, case_id="c").tolist() == classes.tolist()
    assert len(set(written.tolist())) == task.n_classes
