"""What sites release of their test scores, checked when it is read, and joined without any case."""

import math
from dataclasses import replace
from typing import Any

import pytest
from fake_run import make_experiment

from medseg_core.assessment.evaluation import site_figures
from medseg_core.assessment.metrics import METRICS, LabelScores
from medseg_core.assessment.released import Figures, pool_figures, read_figures
from medseg_core.assessment.scores import CaseScores, summarise

EXPERIMENT = make_experiment(labels=2)
LABELS = ("anterior", "posterior")
SAMPLES = EXPERIMENT.evaluation.bootstrap_samples


def scores(dice: float, *, hd95: float | None = 2.0, volume: float | None = 0.1) -> LabelScores:
    return LabelScores(dice, dice / 2, hd95, None, dice, dice, dice, 0.99, volume)


def case(name: str, site: str, anterior: LabelScores, posterior: LabelScores) -> CaseScores:
    return CaseScores(name, f"patient-{name}", site, {"anterior": anterior, "posterior": posterior})


NORTH = [
    case("a", "north", scores(0.9), scores(0.7, volume=None)),
    case("b", "north", scores(0.5, hd95=None), scores(0.5, hd95=None, volume=None)),
    case("c", "north", scores(0.4, hd95=6.0), scores(0.2, hd95=None)),
]
SOUTH = [case("d", "south", scores(1.0, hd95=0.0), scores(0.8, hd95=4.0, volume=-0.5))]


def told(cases: list[CaseScores], **changes: float | None) -> dict[str, float | None]:
    return site_figures(cases, EXPERIMENT) | changes


def read(cases: list[CaseScores], **changes: float | None) -> Figures | str:
    return read_figures(told(cases, **changes), LABELS, n_cases=len(cases), n_patients=len(cases))


def figures(cases: list[CaseScores]) -> Figures:
    found = read(cases)
    assert isinstance(found, dict)
    return found


def close(ours: Any, other: Any) -> bool:
    if isinstance(other, dict):
        return ours.keys() == other.keys() and all(close(ours[key], other[key]) for key in other)
    if isinstance(other, float) and ours is not None:
        return math.isclose(ours, other, rel_tol=1e-12, abs_tol=1e-12)
    return bool(ours == other)


def test_figures_of_sites_joined_are_the_scores_of_their_cases() -> None:
    pooled = pool_figures({"south": figures(SOUTH), "north": figures(NORTH)}, LABELS)

    of_cases = summarise(
        [*NORTH, *SOUTH], seed=EXPERIMENT.federation.seed, samples=EXPERIMENT.evaluation.bootstrap_samples
    )
    assert close(pooled, of_cases)


def test_a_mean_counts_the_cases_that_define_it() -> None:
    pooled = pool_figures({"north": figures(NORTH), "south": figures(SOUTH)}, LABELS)

    assert pooled["mean"]["dice"] == pytest.approx((0.8 + 0.5 + 0.3 + 0.9) / 4)
    assert pooled["mean"]["hd95_mm"] == pytest.approx((2 + 6 + 2) / 3)  # a, c and d
    assert pooled["labels"]["posterior"]["volume_error"] == pytest.approx((0.1 - 0.5) / 2)  # c and d
    assert pooled["mean"]["hd95_px"] is None
    assert pooled["site_mean"]["dice"] == pytest.approx(((0.8 + 0.5 + 0.3) / 3 + 0.9) / 2)
    assert pooled["worst_site"] == {"site": "north", "dice": pytest.approx(1.6 / 3)}
    assert pooled["sites"]["south"]["dice_low"] is None  # one patient
    assert pooled["sites"]["north"]["n_patients"] == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_cases": 2.0}, "bad_count"),
        ({"n_patients": 4.0}, "bad_count"),
        ({"dice": 1.01}, "bad_score"),
        ({"dice": None}, "bad_score"),
        ({"anterior/recall": -0.1}, "bad_score"),
        ({"hd95_mm": -1.0}, "bad_score"),
        ({"hd95_mm": None}, "bad_score"),  # two cases are said to define it
        ({"hd95_mm_cases": 0.0}, "bad_score"),
        ({"hd95_mm_cases": 4.0}, "bad_score"),
        ({"hd95_mm_cases": 1.5}, "bad_score"),
        ({"volume_error": -1.5}, "bad_score"),
        ({"n_empty": -1.0}, "bad_score"),
    ],
    ids=str,
)
def test_impossible_figures_are_refused(changes: dict[str, float | None], reason: str) -> None:
    assert read(NORTH, **changes) == reason


@pytest.mark.parametrize("name", ["n_empty", "dice_low", "posterior/iou", "anterior/hd95_px_cases", *METRICS])
def test_a_missing_figure_is_refused(name: str) -> None:
    given = told(NORTH)
    del given[name]

    assert read_figures(given, LABELS, n_cases=3, n_patients=3) == "bad_score"


def test_what_nobody_asked_for_is_not_kept() -> None:
    found = read(NORTH, **{"case_of_mrs_jones": 0.4})

    assert isinstance(found, dict)
    assert "case_of_mrs_jones" not in found


def test_a_label_that_a_site_does_not_annotate_is_joined_from_the_others() -> None:
    partial = [replace(one, labels={"anterior": one.labels["anterior"]}) for one in NORTH]

    pooled = pool_figures({"north": figures(partial), "south": figures(SOUTH)}, LABELS)

    assert close(pooled, summarise([*SOUTH, *partial], seed=EXPERIMENT.federation.seed, samples=SAMPLES))
    assert pooled["labels"]["posterior"]["dice"] == 0.8  # south's alone
    assert pooled["labels"]["anterior"]["dice"] == pytest.approx((0.9 + 0.5 + 0.4 + 1.0) / 4)
    assert pooled["sites"]["north"]["dice"] == pytest.approx(0.6)
    assert list(pool_figures({"north": figures(partial)}, LABELS)["labels"]) == ["anterior"]


def test_a_site_that_tells_of_no_label_is_refused() -> None:
    given = {name: value for name, value in told(NORTH).items() if "/" not in name}

    assert read_figures(given, LABELS, n_cases=3, n_patients=3) == "bad_score"
