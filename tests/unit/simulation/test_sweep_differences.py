"""Paired differences over settings, seeds and patients, on numbers worked out by hand."""

import pytest

from medseg_simulation.sweep.differences import find_difference


def test_each_setting_counts_once_and_within_it_each_case():
    pairs = {
        ("a", 0): [("ann", 0.1), ("ann", 0.3)],
        ("a", 1): [("ben", 0.2)],
        ("b", 0): [("ann", 0.0), ("ben", 0.0)],
    }

    difference = find_difference(pairs, comparisons=1)

    assert difference.dice == pytest.approx((0.2 + 0.0) / 2)


def test_an_equal_gain_everywhere_is_sure():
    pairs = {("a", seed): [(f"patient-{n}", 0.05) for n in range(6)] for seed in (0, 1)}

    difference = find_difference(pairs, comparisons=16)

    assert difference.low == difference.decided_low == pytest.approx(0.05)
    assert difference.verdict == "better"


def test_the_interval_of_one_seed_is_that_of_the_mean_over_patients():
    """Four patients, two at 0 and two at 1: of 256 draws one has none at 1, and 4 * 0.5^4 = 1/4 have one."""
    pairs = {("a", 0): [("p", 0.0), ("q", 0.0), ("r", 1.0), ("s", 1.0)]}

    difference = find_difference(pairs, comparisons=1)

    assert (difference.low, difference.high) == (0.0, 1.0)  # P(all at 0) = 1/16 > 2.5 %
    assert difference.verdict == "no difference found"


def test_seeds_that_contradict_each_other_leave_no_difference():
    pairs = {
        ("a", 0): [(f"patient-{n}", 0.10) for n in range(20)],
        ("a", 1): [(f"patient-{n}", -0.05) for n in range(20)],
    }

    difference = find_difference(pairs, comparisons=1)

    assert difference.dice == pytest.approx(0.025)
    assert (difference.low, difference.high) == pytest.approx((-0.05, 0.10))
    assert difference.verdict == "no difference found"


def test_the_interval_that_decides_is_wider_with_more_comparisons():
    pairs = {("a", 0): [(f"patient-{n}", 0.01 * n) for n in range(12)]}

    alone, among_many = (find_difference(pairs, comparisons=n) for n in (1, 16))

    assert (alone.decided_low, alone.decided_high) == (alone.low, alone.high)
    assert among_many.decided_low < alone.low < alone.high < among_many.decided_high
    assert (among_many.low, among_many.high) == (alone.low, alone.high)


@pytest.mark.parametrize(("n_patients", "decides"), [(2, False), (5, False), (6, True)])
def test_a_few_patients_on_one_side_decide_nothing(n_patients, decides):
    pairs = {("a", 0): [(f"patient-{n}", 0.05 + 0.01 * n) for n in range(n_patients)]}

    difference = find_difference(pairs, comparisons=1)

    assert (difference.verdict == "better") == decides
    assert difference.low is not None


def test_a_difference_that_no_table_shows_is_none():
    pairs = {("a", 0): [(f"patient-{n}", 0.0004) for n in range(20)]}

    assert find_difference(pairs, comparisons=1).verdict == "no difference found"


def test_one_patient_has_no_interval_and_none_no_difference():
    difference = find_difference({("a", 0): [("ann", 0.1)]}, comparisons=1)

    assert (difference.dice, difference.low, difference.verdict) == (0.1, None, "no difference found")
    assert find_difference({}, comparisons=1) is None
    assert find_difference({("a", 0): []}, comparisons=1) is None


def test_the_order_of_cells_and_cases_changes_nothing():
    cells = [(("a", 0), [("p", 0.1), ("q", 0.4)]), (("b", 1), [("p", 0.0), ("r", 0.2)])]

    forth = find_difference(dict(cells), comparisons=3)
    back = find_difference({key: cell[::-1] for key, cell in cells[::-1]}, comparisons=3)

    assert forth.model_dump() == pytest.approx(back.model_dump())
