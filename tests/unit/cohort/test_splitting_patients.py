"""Patients are split whole, by a seeded hash: shares, folds, stability, too few."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg_core.cohort.split import Fold, Split, split_cases
from medseg_core.errors import TooFewPatientsError
from medseg_core.types import Case


def make_cases(patients: int, cases_each: int = 1) -> list[Case]:
    return [
        Case(f"case-{p}-{n}", f"patient-{p}", "north", (Path("image.nii"),), None)
        for p in range(patients)
        for n in range(cases_each)
    ]


def patients_of(split: Split) -> list[set[str]]:
    return [{c.patient_id for c in part} for part in (split.train, split.validation, split.test)]


@given(patients=st.integers(3, 60), cases_each=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_parts_are_disjoint_whole_and_none_is_empty(patients: int, cases_each: int, seed: int) -> None:
    cases = make_cases(patients, cases_each)
    split = split_cases(cases, site="north", seed=seed)
    parts = patients_of(split)
    assert all(parts)
    assert sum(map(len, parts)) == patients == len(set.union(*parts))
    assert sorted(split.train + split.validation + split.test, key=lambda c: c.case_id) == sorted(
        cases, key=lambda c: c.case_id
    )


@pytest.mark.parametrize(
    ("patients", "sizes"),
    [
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (8, (5, 1, 2)),
        (20, (13, 2, 5)),
        (40, (26, 4, 10)),
        (131, (85, 13, 33)),
    ],
)
def test_sizes_follow_65_10_25(patients: int, sizes: tuple[int, int, int]) -> None:
    parts = patients_of(split_cases(make_cases(patients), site="north", seed=0))
    assert tuple(map(len, parts)) == sizes


@given(order=st.permutations(range(20)), seed=st.integers(0, 5))
def test_the_order_of_the_manifest_changes_nothing(order: list[int], seed: int) -> None:
    cases = make_cases(20)
    assert split_cases([cases[n] for n in order], site="north", seed=seed) == split_cases(
        cases, site="north", seed=seed
    )


def test_another_seed_splits_otherwise_and_the_site_s_name_does_not() -> None:
    cases = make_cases(20)
    first = split_cases(cases, site="north", seed=0)
    assert split_cases(cases, site="south", seed=0) == first
    assert split_cases(cases, site="north", seed=1) != first


@given(patients=st.integers(2, 40), count=st.integers(2, 10), seed=st.integers(0, 9))
def test_folds_test_every_patient_exactly_once_or_say_that_there_are_too_few(
    patients: int, count: int, seed: int
) -> None:
    cases = make_cases(patients, 2)
    tested: list[str] = []
    try:
        for index in range(count):
            parts = patients_of(split_cases(cases, site="north", seed=seed, fold=Fold(index, count)))
            assert all(parts)
            assert sum(map(len, parts)) == patients == len(set.union(*parts))
            tested += parts[2]
    except TooFewPatientsError:
        assert patients < max(count, 4)
    else:
        assert sorted(tested) == sorted({c.patient_id for c in cases})


@pytest.mark.parametrize(
    ("patients", "fold"), [(2, None), (0, None), (3, Fold(0, 2)), (4, Fold(0, 5)), (2, Fold(2, 3))]
)
def test_a_site_with_too_few_patients_is_told_what_to_do(patients: int, fold: Fold | None) -> None:
    with pytest.raises(TooFewPatientsError, match=f"site north has {patients} patients.*fewer .* folds"):
        split_cases(make_cases(patients, 3), site="north", seed=0, fold=fold)
