"""Joining scores of cases: means, sites, intervals over patients, differences of two models."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg_core.assessment.metrics import METRICS, LabelScores
from medseg_core.assessment.scores import (
    CaseScores,
    mean_scores,
    own_site_cases,
    paired_difference,
    patient_interval,
    read_cases,
    summarise,
    write_cases,
)
from medseg_core.errors import UnreadableRunError


def label_scores(dice: float, **changes) -> LabelScores:
    values = dict.fromkeys(METRICS, dice) | {"hd95_px": None, "volume_error": 0.0} | changes
    return LabelScores(**values)


def case(name: str, *dices: float, site: str = "A", patient: str | None = None, **changes) -> CaseScores:
    labels = {f"label_{n}": label_scores(dice, **changes) for n, dice in enumerate(dices)}
    return CaseScores(name, patient or name, site, labels)


def test_a_case_scores_the_mean_of_its_foreground_labels():
    one = case("1", 0.6, 0.9, n_empty=1)

    assert one.dice == pytest.approx(0.75)
    assert one.mean["dice"] == pytest.approx(0.75)
    assert one.mean["hd95_px"] is None
    assert one.n_empty == 2


def test_means_leave_out_the_cases_without_a_value():
    cases = [case("1", 0.5, volume_error=0.3), case("2", 0.7, volume_error=None)]

    assert mean_scores(cases)["dice"] == pytest.approx(0.6)
    assert mean_scores(cases)["volume_error"] == pytest.approx(0.3)


def test_a_label_counts_the_cases_in_which_it_is_annotated():
    partial = CaseScores("3", "3", "B", {"label_1": label_scores(0.4)})

    block = summarise([partial, case("1", 0.9, 0.7), case("2", 0.7, 0.5)], seed=0, samples=10)

    assert partial.dice == pytest.approx(0.4)
    assert list(block["labels"]) == ["label_0", "label_1"]
    assert block["labels"]["label_0"]["dice"] == pytest.approx((0.9 + 0.7) / 2)
    assert block["labels"]["label_1"]["dice"] == pytest.approx((0.7 + 0.5 + 0.4) / 3)
    assert block["mean"]["dice"] == pytest.approx((0.4 + 0.8 + 0.6) / 3)


def test_a_summary_tells_cases_sites_and_labels_apart():
    cases = [case("1", 0.9, 0.7), case("2", 0.7, 0.5), case("3", 0.3, 0.1, site="B", n_empty=1)]

    block = summarise(cases, seed=0, samples=100)

    assert list(block) == ["mean", "site_mean", "worst_site", "labels", "sites"]
    assert block["mean"]["dice"] == pytest.approx((0.8 + 0.6 + 0.2) / 3)
    assert block["site_mean"]["dice"] == pytest.approx((0.7 + 0.2) / 2)
    assert block["worst_site"] == {"site": "B", "dice": pytest.approx(0.2)}
    assert block["labels"]["label_1"]["dice"] == pytest.approx((0.7 + 0.5 + 0.1) / 3)
    assert list(block["sites"]) == ["A", "B"]
    assert block["sites"]["B"]["n_empty"] == 2
    assert (block["sites"]["A"]["n_cases"], block["sites"]["A"]["n_patients"]) == (2, 2)
    assert set(block["sites"]["A"]) == {*METRICS, "dice_low", "dice_high", "n_cases", "n_patients", "n_empty"}


def test_one_patient_gives_no_interval():
    cases = [case("1", 0.9, patient="p"), case("2", 0.5, patient="p")]

    site = summarise(cases, seed=0, samples=100)["sites"]["A"]

    assert (site["dice_low"], site["dice_high"], site["n_patients"]) == (None, None, 1)


def test_an_interval_over_patients_covers_what_the_central_limit_says():
    values = np.random.default_rng(1).normal(0.8, 0.1, 200)
    cases = [case(f"{n:03d}", 0.5) for n in range(200)]

    low, high = patient_interval(cases, list(values), samples=4000, rng=np.random.default_rng(0))

    half = 1.96 * values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=half * 0.1)
    assert high == pytest.approx(values.mean() + half, abs=half * 0.1)


def test_cases_of_one_patient_are_drawn_together():
    twice = [case(f"{n}{side}", 0.5, patient=str(n)) for n in range(20) for side in "lr"]
    values = [n / 20 for n in range(20) for _ in "lr"]
    rng = np.random.default_rng

    together = patient_interval(twice, values, samples=2000, rng=rng(0))
    once = patient_interval([c for c in twice if c.case_id[-1] == "l"], values[::2], samples=2000, rng=rng(0))

    assert together == pytest.approx(once)


def test_the_same_identifier_at_two_sites_is_two_patients():
    cases = [case("1", 0.5, patient="001"), case("2", 0.9, patient="001", site="B")]

    assert paired_difference(cases, cases, seed=0, samples=10).n_patients == 2


def test_a_site_computes_for_itself_the_interval_that_the_coordinator_computes():
    ours = [case(str(n), n / 10, site="A") for n in range(9)]
    theirs = [case(str(n), n / 20, site="B") for n in range(9)]

    alone, joined = summarise(ours, seed=3, samples=500), summarise(theirs + ours, seed=3, samples=500)

    assert alone["sites"]["A"] == joined["sites"]["A"]


@settings(max_examples=20, deadline=None)
@given(st.permutations([case(f"{n}", n / 12, site="AB"[n % 2], patient=str(n // 3)) for n in range(12)]))
def test_the_order_of_cases_changes_no_interval(cases):
    reference = summarise(sorted(cases, key=lambda c: c.case_id), seed=0, samples=50)
    for site, block in summarise(cases, seed=0, samples=50)["sites"].items():
        assert block["dice_low"] == reference["sites"][site]["dice_low"]
        assert block["dice_high"] == reference["sites"][site]["dice_high"]


def test_a_sites_own_model_is_asked_about_its_own_cases_only():
    a, b = case("1", 0.5, site="A"), case("2", 0.6, site="B")

    assert own_site_cases({"global": [a, b], "local:A": [a, b], "local:B": [a, b]}) == [a, b]
    assert own_site_cases({"global": [a], "local:A": [b]}) == []


def test_a_difference_is_paired_by_case():
    ours = [case("1", 0.9), case("2", 0.5), case("3", 0.1)]
    theirs = [case("2", 0.4), case("1", 0.8), case("4", 1.0)]

    difference = paired_difference(ours, theirs, seed=0, samples=1000)

    assert difference.dice == pytest.approx(0.1)
    assert (difference.low, difference.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert (difference.n_cases, difference.n_patients) == (2, 2)


def test_models_without_a_common_case_have_no_difference():
    assert paired_difference([case("1", 0.9)], [case("2", 0.9)], seed=0, samples=10) is None


def test_two_thousand_draws_of_two_hundred_patients_take_milliseconds():
    cases = [case(str(n), n / 200) for n in range(200)]
    values = [c.dice for c in cases]
    patient_interval(cases, values, samples=10, rng=np.random.default_rng(0))

    start = time.process_time()
    patient_interval(cases, values, samples=2000, rng=np.random.default_rng(0))

    assert time.process_time() - start < 0.1  # about 0.01 s


def test_cases_survive_the_file(tmp_path):
    models = {"global": [case("1", 0.25, 0.5, volume_error=None), case("é", 1.0, site="<b>")], "local": []}

    write_cases(tmp_path / "cases.json", models)

    assert read_cases(tmp_path / "cases.json") == models
    assert json.loads((tmp_path / "cases.json").read_text())["global"][0]["mean"]["dice"] == 0.375


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "EOF"),
        ('{"global": [{"case_id": "1"}]}', "global.0.patient_id: Field required"),
        ('{"global": [{"case_id": "1", "patient_id": "1", "site": "A", "labels": {}}]}', "at least 1 item"),
        (None, "No such file"),
    ],
)
def test_a_damaged_file_of_cases_is_named_with_its_fault(tmp_path, text, fault):
    if text is not None:
        (tmp_path / "cases.json").write_text(text)
    with pytest.raises(UnreadableRunError, match=fault) as caught:
        read_cases(tmp_path / "cases.json")
    assert "--resume" in str(caught.value)


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    write_cases(tmp_path / "cases.json", {"global": [case("1", 0.25)]})
    (tmp_path / "cases.json").write_text((tmp_path / "cases.json").read_text().replace("0.25", "NaN"))
    with pytest.raises(UnreadableRunError, match="finite"):
        read_cases(tmp_path / "cases.json")
