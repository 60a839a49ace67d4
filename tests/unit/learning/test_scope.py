"""What cases a model is for: moments of sites join exactly, and a case outside of them is told why."""

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import make_case, make_experiment

from medseg_core.learning import scope
from medseg_core.learning.scope import (
    Moments,
    Scope,
    features_of,
    join,
    moments_of_training,
    range_faults,
    read_moments,
    to_figures,
)
from medseg_core.types import Geometry

COUNTS = {"train_cases": 6, "validation_cases": 6}


def scope_of(**moments: Moments) -> Scope:
    named = {name.replace("__", "/"): found for name, found in moments.items()}
    return Scope(moments=named, sites={"training": 2, "validation": 2})


def test_moments_of_two_sites_are_those_of_all_their_cases() -> None:
    ours, theirs = [0.1, 0.2, 0.6], [0.5, 0.9]
    parts = [
        {"uncertainty": Moments(n=len(v), mean=float(np.mean(v)), sd=float(np.std(v)))}
        for v in (ours, theirs)
    ]
    joined = join(parts)
    assert joined is not None
    found = joined.moments["uncertainty"]
    assert (found.n, found.mean, found.sd) == (
        5,
        pytest.approx(np.mean(ours + theirs)),
        pytest.approx(np.std(ours + theirs)),
    )
    assert joined.sites == {"training": 0, "validation": 2}


def test_threshold_is_two_deviations_above_the_mean() -> None:
    assert scope_of(uncertainty=Moments(n=5, mean=0.1, sd=0.05)).threshold == pytest.approx(0.2)


def test_too_few_cases_give_neither_threshold_nor_range() -> None:
    few = scope_of(uncertainty=Moments(n=4, mean=0.1, sd=0.05), spacing__0=Moments(n=4, mean=0.0, sd=0.0))
    assert few.threshold is None
    assert few.range_of("spacing/0") is None


def test_no_site_that_tells_gives_no_scope() -> None:
    assert join([{}, {}]) is None


def test_range_is_four_deviations_but_at_least_the_margin() -> None:
    found = scope_of(spacing__0=Moments(n=9, mean=0.0, sd=1.0), spacing__1=Moments(n=9, mean=0.0, sd=0.0))
    assert found.range_of("spacing/0") == (-4.0, 4.0)
    assert found.range_of("spacing/1") == (-math.log(1.25), math.log(1.25))


def test_figures_of_a_site_are_read_back_as_told() -> None:
    experiment = make_experiment()
    told = {
        "uncertainty": Moments(n=6, mean=0.25, sd=0.125),
        "spacing/0": Moments(n=6, mean=-0.5, sd=0.0),
        "p50/0": Moments(n=6, mean=0.0, sd=0.5),
    }
    assert read_moments(to_figures(told), COUNTS, experiment.task) == told
    assert set(to_figures(told)) <= scope.SCOPE_FIGURES


@pytest.mark.parametrize(
    "wrong",
    [
        {"scope:uncertainty/n": 7.0},
        {"scope:uncertainty/n": 1.5},
        {"scope:uncertainty/n": 0.0},
        {"scope:uncertainty/mean": 1.01},
        {"scope:uncertainty/mean": -0.01},
        {"scope:uncertainty/sd": -0.1},
        {"scope:uncertainty/sd": None},
    ],
)
def test_figures_that_cannot_be_are_passed_over(wrong: dict[str, float | None]) -> None:
    told = to_figures({"uncertainty": Moments(n=6, mean=0.25, sd=0.125)})
    assert read_moments(told | wrong, COUNTS, make_experiment().task) == {}


def test_figures_of_channels_that_the_task_has_not_are_passed_over() -> None:
    told = to_figures({"p50/1": Moments(n=6, mean=0.0, sd=0.5)})
    assert read_moments(told, COUNTS, make_experiment().task) == {}


def test_spacing_is_told_along_the_axes_of_the_world() -> None:
    turned = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # i runs to the back, j to the head, k to the left
    case = replace(make_case("one"), original=Geometry((8, 8, 8), (1.0, 2.0, 3.0), (0.0,) * 3, turned))
    found = features_of(case)
    spacing = [math.exp(found[f"spacing/{axis}"]) for axis in range(3)]
    assert spacing == pytest.approx([3.0, 1.0, 2.0])


def test_nothing_is_told_of_a_channel_that_too_few_patients_have() -> None:
    both = [make_case(name, patient=patient) for name, patient in (("a", "x"), ("b", "x"), ("c", "y"))]
    both = [replace(case, image=np.concatenate([case.image, case.image])) for case in both]
    rare = [*both[:2], replace(both[2], case=replace(both[2].case, missing=(1,)))]
    assert {"p50/0", "p50/1"} <= moments_of_training(both, fewest_patients=2).keys()
    told = moments_of_training(rare, fewest_patients=2)
    assert "p50/0" in told
    assert not any(feature.endswith("/1") and feature.startswith("p") for feature in told)


def test_percentiles_are_those_of_what_the_network_sees() -> None:
    case = replace(make_case("one"), image=np.arange(101, dtype=np.float32).reshape(1, 101, 1))
    found = features_of(case)
    assert [found[f"p{p}/0"] for p in (5, 50, 95)] == [5.0, 50.0, 95.0]


def test_a_case_outside_the_range_is_told_what_was_found_and_what_was_trained_on() -> None:
    task = make_experiment().task
    learned = scope_of(
        spacing__0=Moments(n=9, mean=math.log(1.0), sd=0.0), p50__0=Moments(n=9, mean=0.0, sd=0.1)
    )
    case = make_case("one")
    assert range_faults(case, learned, task) == ()
    coarse = replace(case, original=replace(case.original, spacing_mm=(3.0, 1.0)))
    assert range_faults(coarse, learned, task) == (
        "its axis 0 spacing is 3 mm, trained on were 0.8 to 1.25 mm",
    )
    bright = replace(case, image=case.image + 5)
    (fault,) = range_faults(bright, learned, task)
    assert fault.startswith("channel grey: 50 % of its voxels are below 5.")
    assert range_faults(coarse, None, task) == ()


def test_a_scan_in_other_units_than_the_window_is_held() -> None:
    channel = {"name": "ct", "modality": "CT", "normalisation": "window", "window": [-160, 240]}
    task = make_experiment(task={"channels": [channel]}).task
    clipped = replace(make_case("one"), image=np.ones((1, 20, 18), np.float32))
    assert scope.window_faults(clipped, task) == (
        "channel ct: 0.00% of its voxels lie within the task's window, -160 to 240",
    )
    assert scope.window_faults(make_case("one"), task) == ()
