"""FLTrust on numbers that can be done by hand, and through the whole loop with cases of the coordinator."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import initial_weights, make_experiment, make_federation, make_site_data, newest_sha256
from playing import SPEC, START, update
from pydantic import ValidationError

from medseg_core.federation.algorithms.base import Figures, ServerState
from medseg_core.federation.algorithms.fltrust import FLTrust
from medseg_core.federation.update import ClientUpdate
from medseg_server.own_data import NAME, OwnData
from medseg_server.rounds import train

EXPERIMENT = make_experiment(
    federation={"algorithm": "fltrust", "rounds": 2}, evaluation={"server_data": "mine"}
)


def after_round(*updates: ClientUpdate, reference: tuple[float, float]) -> tuple[ServerState, Figures]:
    algorithm = FLTrust()
    state = algorithm.init(START, SPEC)
    accumulator = algorithm.start(state, SPEC)
    accumulator.reference = update(NAME, reference, 5.0).delta
    for one in updates:
        algorithm.add(accumulator, one, 1)
    return algorithm.finish(accumulator, state, counted=dict.fromkeys(accumulator.sites, (1, 1)))


def test_a_site_counts_by_its_cosine_and_with_the_norm_of_the_servers_update() -> None:
    state, figures = after_round(
        update("along", (6.0, 8.0), 1.0),  # cosine 1
        update("aslant", (0.0, 7.0), 2.0),  # cosine 0.8
        update("against", (-90.0, -120.0), 400.0),  # cosine -1
        reference=(3.0, 4.0),
    )
    # (1 * (3, 4) + 0.8 * (0, 5)) / 1.8
    np.testing.assert_allclose(state.weights["w"] - START["w"], (3 / 1.8, 8 / 1.8), rtol=1e-6)
    np.testing.assert_allclose(state.weights["running_mean"], 12.0)  # of all
    assert figures["weight_along"] == pytest.approx(1 / 1.8)
    assert figures["weight_against"] == 0.0


def test_how_long_an_update_is_makes_no_difference() -> None:
    ways = [(6.0, 8.0), (0.0, 7.0)]
    short, long = (
        after_round(*(update(f"s{i}", (f * a, f * b)) for i, (a, b) in enumerate(ways)), reference=(3.0, 4.0))
        for f in (1.0, 1000.0)
    )
    np.testing.assert_allclose(short[0].weights["w"], long[0].weights["w"], rtol=1e-6)


@pytest.mark.parametrize("way", [(-3.0, -4.0), (0.0, 0.0)])
def test_where_nobody_is_trusted_the_model_stays(way: tuple[float, float]) -> None:
    state, _ = after_round(update("one", way, 9.0), update("two", way, 9.0), reference=(3.0, 4.0))
    assert {n: w.tolist() for n, w in state.weights.items()} == {n: w.tolist() for n, w in START.items()}


def test_blocks_split_the_reference_as_they_split_the_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg_core.federation.algorithms.collecting.BLOCK", 1)
    state, _ = after_round(update("one", (6.0, 8.0), 1.0), reference=(3.0, 4.0))
    np.testing.assert_allclose(state.weights["w"] - START["w"], (3.0, 4.0), rtol=1e-6)


def test_without_cases_of_the_coordinator_it_is_refused_with_a_sentence() -> None:
    with pytest.raises(
        ValidationError, match=r"labelled cases of the coordinator in \[evaluation\] server_data"
    ):
        make_experiment(federation={"algorithm": "fltrust"})


def test_the_servers_update_is_that_of_a_site_with_these_cases_and_the_same_each_time() -> None:
    data = make_site_data("elsewhere", train=2)
    own = OwnData([replace(c, case=replace(c.case, site=NAME)) for c in data.train], EXPERIMENT)
    weights = dict(initial_weights(EXPERIMENT))
    first, again = own.update(weights, 1), own.update(weights, 1)
    assert all(np.array_equal(first[name], again[name]) for name in weights)
    assert any(np.abs(first[name]).max() > 1e-4 for name in weights)
    other = own.update(weights, 2)
    assert any(not np.array_equal(first[name], other[name]) for name in weights)


def test_a_federation_gives_the_rule_its_reference_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    def run_in(folder: Path):
        run = make_federation(folder, EXPERIMENT, {s: make_site_data(s) for s in ("north", "south")})
        return replace(run, own_data=OwnData(make_site_data("elsewhere").train, EXPERIMENT))

    whole = run_in(tmp_path / "whole")
    record = train(whole).history[-1]
    shares = [record["diagnostics"][f"weight_{site}"] for site in ("north", "south")]
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) > 0

    def crash(record: dict) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(replace(run_in(tmp_path / "broken"), on_round=crash))
    again = run_in(tmp_path / "broken")
    train(again)
    assert newest_sha256(again.store) == newest_sha256(whole.store)
