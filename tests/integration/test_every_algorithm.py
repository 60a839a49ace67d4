"""Every algorithm through the whole loop with real trainers: it trains, and a crash changes no bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from builders import (
    initial_weights,
    make_experiment,
    make_federation,
    make_site_data,
    newest_sha256,
    newest_weights,
)

from medseg_core.config import NEED_BATCH_NORM, NEED_SGD, AlgorithmName, Experiment
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.checkpoint import newest_checkpoint
from medseg_server.errors import TooFewSitesError
from medseg_server.own_data import OwnData
from medseg_server.rounds import train

SITES = ("east", "north", "south", "upland", "west")  # as many as krum needs


def experiment_of(algorithm: AlgorithmName, **federation: Any) -> Experiment:
    training = {"optimiser": "sgd", "learning_rate": 0.02} if algorithm in NEED_SGD else {}
    model = {"normalisation": "batch"} if algorithm in NEED_BATCH_NORM else {}
    own = {"server_data": "mine"} if algorithm == "fltrust" else {}
    federation = {"algorithm": algorithm, "rounds": 3, **federation}
    return make_experiment(federation=federation, training=training, model=model, evaluation=own)


def run_in(folder: Path, experiment: Experiment, sites: tuple[str, ...] = SITES) -> Any:
    data = {site: make_site_data(site, train=1 + n % 2) for n, site in enumerate(sites)}
    own = (
        OwnData(make_site_data("elsewhere").train, experiment) if experiment.evaluation.server_data else None
    )
    return replace(make_federation(folder, experiment, data), own_data=own)


@pytest.mark.parametrize("algorithm", get_args(AlgorithmName))
def test_a_crash_after_any_round_changes_no_bit(tmp_path: Path, algorithm: AlgorithmName) -> None:
    experiment = experiment_of(algorithm)
    whole = run_in(tmp_path / "whole", experiment)
    train(whole)
    start, end = initial_weights(experiment), newest_weights(whole)
    assert any(np.abs(end[name] - start[name]).max() > 1e-4 for name in end)
    assert all(np.isfinite(tensor).all() for tensor in end.values())

    broken = run_in(tmp_path / "broken", experiment)

    def crash(record: dict[str, Any]) -> None:
        if record["round"] == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(replace(broken, on_round=crash))
    again = run_in(tmp_path / "broken", experiment)
    train(again)
    assert newest_sha256(again.store) == newest_sha256(whole.store)


@pytest.mark.parametrize("algorithm", ["scaffold", "feddyn", "moon"])
def test_what_a_site_keeps_for_its_algorithm_is_never_sent_undeclared(
    tmp_path: Path, algorithm: AlgorithmName
) -> None:
    experiment = experiment_of(algorithm, participants=4)
    run = run_in(tmp_path, experiment)
    train(run)
    checkpoint = newest_checkpoint(run.store.checkpoints, on_torn=lambda why: None)
    assert checkpoint is not None
    kept = {"scaffold": {"control"}, "feddyn": {"h"}, "moon": set()}[algorithm]
    assert checkpoint.state.memory.keys() == kept
    assert set(build_algorithm(experiment).uploads) == {"delta"} | (kept & {"control"})


@pytest.mark.parametrize(("algorithm", "needed"), [("krum", 5), ("median", 3), ("trimmed_mean", 3)])
def test_a_rule_refuses_fewer_sites_than_its_bound(
    tmp_path: Path, algorithm: AlgorithmName, needed: int
) -> None:
    run = run_in(tmp_path, experiment_of(algorithm), SITES[: needed - 1])
    fault = f"needs the updates of {needed} sites in a round, {needed - 1} are asked"
    with pytest.raises(TooFewSitesError, match=fault) as refusal:
        train(run)
    assert ("smaller [federation.robust] hostile_sites" in str(refusal.value)) == (algorithm != "median")
