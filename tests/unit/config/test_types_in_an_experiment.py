"""What an experiment file holds is of the type that the key has: nothing is guessed."""

from datetime import date
from typing import Any

import pytest
from builders import make_experiment

from medseg_core.config import Experiment, parse_experiment
from medseg_core.errors import ExperimentFileError


def with_value(section: str, key: str, value: Any) -> Experiment:
    document: dict[str, Any] = make_experiment().model_dump(mode="json", exclude_none=True)
    document[section] |= {key: value}
    return parse_experiment(document, source="x.toml")


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("federation", "rounds", True, "a valid integer, got True"),
        ("federation", "rounds", 2.0, "a valid integer, got 2.0"),
        ("federation", "rounds", "1", "a valid integer, got '1'"),
        ("training", "learning_rate", "0.01", "a valid number, got '0.01'"),
        ("training", "learning_rate", float("nan"), "a finite number, got nan"),
        ("federation", "optimiser_memory", "yes", "a valid boolean, got 'yes'"),
        ("task", "licence", date(2026, 1, 1), "a valid string, got "),  # TOML has dates
        ("training", "cpu_threads", 1_000_000, "less than or equal to 1024, got 1000000"),
    ],
)
def test_a_value_of_another_type_or_size_is_refused(section: str, key: str, value: Any, expected: str):
    with pytest.raises(
        ExperimentFileError, match=rf"x.toml: \[{section}\] {key}: Input should be {expected}"
    ):
        with_value(section, key, value)


def test_a_whole_number_is_a_number_and_a_list_a_list():
    assert with_value("training", "learning_rate", 1).training.learning_rate == 1.0
    assert with_value("training", "patch_size", [8, 8]).training.patch_size == (8, 8)


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        (
            "task",
            "labels",
            {"organ": "x"},
            "[task.labels] organ: Input should be a valid integer, or input should be a valid array, or input should "
            "be 'nonzero', got 'x'",
        ),
        (
            "simulation",
            "faults",
            {"kind": "nan", "sites": 0},
            "[simulation.faults] sites: Input should be a valid array, or input should be greater than or equal to 1, "
            "got 0",
        ),
        (
            "training",
            "augmentation",
            "off",
            "[training] augmentation: Input should be an object, or input should be False, got 'off'",
        ),
        (
            "task",
            "labels",
            {"constrained-a": "x"},  # a name that pydantic might have given to a type
            "[task.labels] constrained-a: Input should be a valid integer, or input should be a valid array, or input "
            "should be 'nonzero', got 'x'",
        ),
        (
            "model",
            "channels",
            [4, 0],
            "[model.channels] 1: Input should be greater than or equal to 1, got 0",
        ),
        (
            "model",
            "channels",
            [4],
            "[model] channels: A list here should have at least 2 items, not 1, got [4]",
        ),
    ],
)
def test_a_value_with_a_fault_is_told_once_and_in_plain_words(
    section: str, key: str, value: Any, expected: str
):
    with pytest.raises(ExperimentFileError) as refusal:
        with_value(section, key, value)
    assert str(refusal.value) == f"x.toml: {expected}"


def test_a_name_that_is_nearly_one_of_those_known_is_told_which():
    with pytest.raises(ExperimentFileError, match="got 'FedAvg'; did you mean 'fedavg'"):
        with_value("federation", "algorithm", "FedAvg")


@pytest.mark.parametrize("key", ["foo[bar]", "constrained-x"])
def test_a_key_that_looks_like_a_type_is_told_beside_other_faults(key: str):
    document: dict[str, Any] = make_experiment().model_dump(mode="json", exclude_none=True)
    document["training"] |= {"batch_size": 0, key: 1}
    with pytest.raises(ExperimentFileError) as refusal:
        parse_experiment(document, source="x.toml")
    assert f"[training] has no key '{key}'" in str(refusal.value)
    assert "[training] batch_size: " in str(refusal.value)
