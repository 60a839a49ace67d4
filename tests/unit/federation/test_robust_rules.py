"""Rules that bear hostile sites, on numbers that can be done by hand, and against attacks."""

import itertools

import numpy as np
import pytest
from builders import make_experiment
from playing import SPEC, START, play, update

from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.algorithms.base import Algorithm
from medseg_core.federation.algorithms.collecting import CollectingAlgorithm
from medseg_core.federation.algorithms.geometric_median import GeometricMedian
from medseg_core.federation.algorithms.krum import Krum, MultiKrum
from medseg_core.federation.algorithms.median import Median
from medseg_core.federation.algorithms.norm_bounding import NormBounding
from medseg_core.federation.algorithms.trimmed_mean import TrimmedMean
from medseg_core.federation.update import ClientUpdate

HONEST = [(0.9, 0.1), (1.0, 0.0), (1.1, -0.1), (1.0, 0.1)]
HOSTILE = (-40.0, 70.0)
RULES = [Median(), TrimmedMean(), Krum(), MultiKrum(), GeometricMedian(), NormBounding()]
NAMES = ["median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "norm_bounding"]


def moved(algorithm: Algorithm, updates: list[tuple[ClientUpdate, int]]) -> np.ndarray:
    """By how much a round moves the parameter."""
    state = play(algorithm, algorithm.init(START, SPEC), *updates)
    return np.asarray(state.weights["w"] - START["w"])


def sites(*ways: tuple[float, float]) -> list[tuple[ClientUpdate, int]]:
    return [(update(f"site{i}", way), 1) for i, way in enumerate(ways)]


def test_the_median_of_each_number() -> None:
    assert moved(Median(), sites((1.0, 5.0), (2.0, -9.0), (90.0, 1.0))).tolist() == [2.0, 1.0]


def test_the_trimmed_mean_leaves_the_ends_out() -> None:
    found = moved(TrimmedMean(hostile_sites=1), sites((1.0, 5.0), (2.0, -9.0), (90.0, 1.0), (4.0, 2.0)))
    assert found.tolist() == [3.0, 1.5]


def test_krum_takes_the_update_that_most_are_close_to() -> None:
    found = moved(Krum(hostile_sites=1), sites(*HONEST, HOSTILE))
    np.testing.assert_allclose(found, (1.0, 0.1), rtol=1e-6)  # its two nearest: 0.01 + 0.01


def test_multi_krum_is_the_mean_of_all_but_the_outliers() -> None:
    np.testing.assert_allclose(
        moved(MultiKrum(hostile_sites=1), sites(*HONEST, HOSTILE)), np.mean(HONEST, 0), rtol=1e-5
    )


@pytest.mark.parametrize("far", [1e3, 1e9, 1e30])
@pytest.mark.parametrize("n_hostile", [1, 3])
def test_the_geometric_median_bears_updates_however_long(far: float, n_hostile: int) -> None:
    found = moved(GeometricMedian(), sites(*HONEST, *[(far, -far)] * n_hostile))
    assert np.linalg.norm(found - (1.0, 0.0)) < 0.5


def test_norm_bounding_by_a_median_needs_three() -> None:
    assert (NormBounding().fewest_sites, NormBounding(norm_bound=1.0).fewest_sites) == (3, 1)


def test_the_geometric_median_has_the_smallest_sum_of_distances() -> None:
    ways = np.array([*HONEST, HOSTILE], np.float32)
    found = moved(GeometricMedian(iterations=50), sites(*map(tuple, ways.tolist())))
    total = np.linalg.norm(ways - found, axis=1).sum()
    for step in itertools.product((-0.02, 0.0, 0.02), repeat=2):
        assert total <= np.linalg.norm(ways - found - step, axis=1).sum() + 1e-6


def test_norm_bounding_scales_what_is_too_long() -> None:
    bounded = moved(NormBounding(norm_bound=1.0), sites((3.0, 4.0), (0.0, 0.5)))
    np.testing.assert_allclose(bounded, [0.3, (0.8 + 0.5) / 2], rtol=1e-6)
    by_median = moved(NormBounding(), sites((0.0, 1.0), (0.0, 2.0), (60.0, 80.0)))
    np.testing.assert_allclose(by_median, [1.2 / 3, (1 + 2 + 1.6) / 3], rtol=1e-6)


@pytest.mark.parametrize("algorithm", RULES, ids=NAMES)
def test_one_hostile_site_of_five_moves_the_model_little(algorithm: CollectingAlgorithm) -> None:
    found = moved(algorithm, sites(*HONEST, HOSTILE))
    assert np.linalg.norm(found - np.mean(HONEST, 0)) < 0.7


@pytest.mark.parametrize("algorithm", RULES, ids=NAMES)
def test_order_of_arrival_changes_no_bit_and_buffers_follow_the_rule(algorithm: CollectingAlgorithm) -> None:
    updates = [(update(f"site{i}", way, float(i)), i + 1) for i, way in enumerate([*HONEST, HOSTILE])]
    ends = set()
    for order in itertools.permutations(updates):
        state = play(algorithm, algorithm.init(START, SPEC), *order)
        ends.add(state.weights["w"].tobytes() + state.weights["running_mean"].tobytes())
    assert len(ends) == 1
    assert 10.0 <= float(state.weights["running_mean"][0]) <= 14.0


@pytest.mark.parametrize("algorithm", [*RULES, NormBounding(norm_bound=1e-3)], ids=[*NAMES, "norm_bound"])
@pytest.mark.parametrize("buffer", [-1e6, 3e38])
def test_good_parameters_carry_no_hostile_buffers_in(algorithm: CollectingAlgorithm, buffer: float) -> None:
    """A running variance of -1e6 makes a network's answers no numbers, whatever its parameters are."""
    honest = [(update(f"site{i}", way, 0.1 * i), 1) for i, way in enumerate(HONEST)]
    best = tuple(np.mean(HONEST, 0).tolist())
    state = play(algorithm, algorithm.init(START, SPEC), *honest, (update("hostile", best, buffer), 1))
    assert 10.0 <= float(state.weights["running_mean"][0]) <= 10.4


def test_the_record_tells_whom_the_rule_believed() -> None:
    algorithm = Krum()
    state = algorithm.init(START, SPEC)
    accumulator = algorithm.start(state, SPEC)
    for one, weight in sites(*HONEST, HOSTILE):
        algorithm.add(accumulator, one, weight)
    _, figures = algorithm.finish(accumulator, state, counted=dict.fromkeys(accumulator.sites, (1, 1)))
    weights = {name: figure for name, figure in figures.items() if name.startswith("weight_")}
    assert weights["weight_site4"] == 0.0
    assert sum(weights.values()) == 1.0


@pytest.mark.parametrize(
    ("algorithm", "fewest"),
    [
        (Median(), 3),
        (TrimmedMean(hostile_sites=2), 5),
        (Krum(hostile_sites=2), 7),
        (MultiKrum(hostile_sites=1), 5),
    ],
)
def test_a_rule_says_how_many_sites_it_needs(algorithm: CollectingAlgorithm, fewest: int) -> None:
    assert algorithm.fewest_sites == fewest


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (MultiKrum(hostile_sites=2), [7, 5, 3, 3]),
        (TrimmedMean(hostile_sites=2), [5, 3, 1, 1]),
        (Median(), [3] * 4),
    ],
)
def test_those_refused_for_what_they_sent_are_among_the_hostile(
    rule: CollectingAlgorithm, expected: list[int]
) -> None:
    assert [rule.fewest_left(n_refused) for n_refused in range(4)] == expected


def test_a_rule_bears_as_many_of_those_that_are_left_as_its_bound_allows() -> None:
    assert [MultiKrum(hostile_sites=2).borne_among(n) for n in (3, 4, 5, 6, 7, 20)] == [0, 0, 1, 1, 2, 2]
    assert [TrimmedMean(hostile_sites=2).borne_among(n) for n in (1, 2, 3, 4, 5, 20)] == [0, 0, 1, 1, 2, 2]
    four = sites(*HONEST)
    for rule in (MultiKrum(hostile_sites=1), TrimmedMean(hostile_sites=2)):
        expected = np.mean(HONEST, 0) if isinstance(rule, MultiKrum) else np.mean(np.sort(HONEST, 0)[1:3], 0)
        np.testing.assert_allclose(moved(rule, four), expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "rule"), list(zip(NAMES, RULES, strict=True)))
def test_the_experiment_names_them(name: str, rule: Algorithm) -> None:
    assert build_algorithm(make_experiment(federation={"algorithm": name})) == rule


def test_updates_of_more_than_a_block_are_joined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg_core.federation.algorithms.collecting.BLOCK", 2)
    assert moved(Median(), sites((1.0, 5.0), (2.0, -9.0), (90.0, 1.0))).tolist() == [2.0, 1.0]
    np.testing.assert_allclose(moved(MultiKrum(), sites(*HONEST, HOSTILE)), np.mean(HONEST, 0), rtol=1e-5)
