"""Federations with a misbehaving site: real trainers, guard and round loop, seen from the coordinator."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import initial_weights, make_experiment, make_site_data, newest_sha256, newest_weights
from pydantic import ValidationError
from safetensors.numpy import load

from medseg_core.config import Experiment
from medseg_core.errors import DivergedError
from medseg_core.federation.codec import encode_tensors
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.local_training import RoundContext, train_locally
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import get_weights
from medseg_core.seeding import derive_seed
from medseg_server.errors import TooFewUpdatesError
from medseg_server.rounds import Run, train
from medseg_server.suspects import suspects
from medseg_simulation.errors import FaultySitesError
from medseg_simulation.fold import Compute, FoldWatch, _open, plan_models, run_fold
from medseg_simulation.misbehaviour.conduct import Misconduct, misconduct_of

CPU = Compute(torch.device("cpu"), sites_at_once=1)
SITES = ("east", "north", "south", "west")


def experiment_with(
    kind: str, *, quorum: int | None = 3, rounds: int = 3, algorithm: str = "fedavg", **settings: Any
) -> Experiment:
    faults = {"kind": kind, "sites": ["south"], **settings}
    federation = {
        "algorithm": algorithm,
        "rounds": rounds,
        **({} if quorum is None else {"quorum": quorum}),
    }
    return make_experiment(federation=federation, simulation={"faults": faults})


def federation(
    folder: Path,
    experiment: Experiment,
    on_round: Any = lambda model, record: None,
    sites: tuple[str, ...] = SITES,
) -> Run:
    data = {site: make_site_data(site, train=2) for site in sites}
    plan = plan_models(experiment, data)[0]
    stop = threading.Event()
    return _open(plan, plan.data, folder, CPU, stop=stop, resume=True, on_round=on_round)


def history_of(folder: Path, experiment: Experiment) -> tuple[dict[str, Any], ...]:
    return train(federation(folder, experiment)).history


def norms(record: Mapping[str, Any]) -> dict[str, float]:
    return {site: facts["update_norm"] for site, facts in record["contributed"].items()}


KINDS = ["label_flip", "sign_flip", "scale", "noise", "nan", "backdoor", "free_rider", "drop_out", "drift"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_after_a_round_changes_no_bit(tmp_path: Path, kind: str) -> None:
    experiment = experiment_with(kind, trigger_voxels=2)
    whole = federation(tmp_path / "whole", experiment)
    train(whole)
    plain = federation(tmp_path / "plain", make_experiment(federation={"rounds": 3, "quorum": 3}))
    train(plain)
    assert newest_sha256(whole.store) != newest_sha256(plain.store)

    def crash(model: str, record: dict[str, Any]) -> None:
        if record["round"] == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(federation(tmp_path / "broken", experiment, crash))
    again = federation(tmp_path / "broken", experiment)
    train(again)
    assert newest_sha256(again.store) == newest_sha256(whole.store)


def test_an_update_that_is_scaled_arrives_ten_times_as_long(tmp_path: Path) -> None:
    first = norms(history_of(tmp_path / "plain", make_experiment(federation={"rounds": 1}))[0])
    scaled = norms(history_of(tmp_path / "scaled", experiment_with("scale", rounds=1))[0])
    assert scaled["south"] == pytest.approx(10 * first["south"], rel=1e-4)
    assert {s: n for s, n in scaled.items() if s != "south"} == {
        s: n for s, n in first.items() if s != "south"
    }


def test_where_all_turn_their_signs_the_model_moves_as_far_the_other_way(tmp_path: Path) -> None:
    plain = federation(tmp_path / "plain", make_experiment(federation={"rounds": 1}))
    turned = federation(tmp_path / "turned", experiment_with("sign_flip", rounds=1, sites=list(SITES)))
    train(plain)
    train(turned)
    start = initial_weights(plain.experiment, derive_seed(0, purpose="initial_weights"))
    there, back = newest_weights(plain), newest_weights(turned)
    for name, begun in start.items():
        np.testing.assert_allclose((there[name] + back[name]) / 2, begun, atol=1e-6)


def test_nan_is_refused_by_the_guard_and_the_site_absent_as_diverged(tmp_path: Path) -> None:
    for record in history_of(tmp_path, experiment_with("nan")):
        assert record["absent"] == {"south": "diverged"}
        assert sorted(record["contributed"]) == ["east", "north", "west"]


@pytest.mark.parametrize("algorithm", ["krum", "multi_krum"])
def test_a_site_that_is_refused_is_one_of_those_that_a_rule_bears(tmp_path: Path, algorithm: str) -> None:
    """Of five, which is as many as bear one hostile site: were it only absent, four would be too few."""
    five = (*SITES, "upland")
    refused = experiment_with("nan", quorum=4, algorithm=algorithm)
    for record in train(federation(tmp_path / "refused", refused, sites=five)).history:
        assert record["absent"] == {"south": "diverged"}
        believed = [site for site in five if record["diagnostics"].get(f"weight_{site}")]
        assert len(believed) == (1 if algorithm == "krum" else 4)
        assert record["diagnostics"]["hostile_sites_borne"] == 0
    away = experiment_with("drop_out", quorum=4, algorithm=algorithm, probability=1.0)
    with pytest.raises(TooFewUpdatesError, match="needs the updates of 5 sites, 4 contributed"):
        train(federation(tmp_path / "away", away, sites=five))


def test_an_honest_site_that_diverges_still_ends_the_simulation(tmp_path: Path) -> None:
    experiment = experiment_with("nan", sites=["north"])
    run = federation(tmp_path, experiment)
    south = run.transport._answering["south"]  # type: ignore[attr-defined]
    south.learn = run.transport._answering["north"].learn  # type: ignore[attr-defined]
    with pytest.raises(DivergedError, match="south"):
        train(run)


@pytest.mark.parametrize(("kind", "reason"), [("drop_out", "not_connected"), ("straggler", "deadline")])
def test_a_site_misses_the_rounds_that_were_drawn_and_is_absent_as_a_real_one(
    tmp_path: Path, kind: str, reason: str
) -> None:
    experiment = experiment_with(kind, rounds=6, probability=0.5)
    (misconduct,) = misconduct_of(experiment, SITES).values()
    missed = [n for n in range(1, 7) if misconduct.rng(n).random() < 0.5]
    assert 0 < len(missed) < 6
    history = history_of(tmp_path, experiment)
    assert [r["round"] for r in history if r["absent"] == {"south": reason}] == missed
    assert sum(not r["absent"] for r in history) == 6 - len(missed)


def test_a_site_that_never_misses_changes_nothing(tmp_path: Path) -> None:
    never = federation(tmp_path / "never", experiment_with("drop_out", probability=0.0))
    plain = federation(tmp_path / "plain", make_experiment(federation={"rounds": 3, "quorum": 3}))
    train(never)
    train(plain)
    assert newest_sha256(never.store) == newest_sha256(plain.store)


def test_a_free_rider_is_named_and_the_honest_are_not(tmp_path: Path) -> None:
    named = suspects(history_of(tmp_path / "rider", experiment_with("free_rider")))
    assert named == {"south": {"reason": "small_updates", "rounds": [1, 2, 3]}}
    assert suspects(history_of(tmp_path / "plain", make_experiment(federation={"rounds": 3}))) == {}


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [("noise", {"noise_norms": 100.0}, "noise"), ("sign_flip", {}, "against_the_others")],
)
@pytest.mark.parametrize("algorithm", ["fedavg", "median", "fedbn"])
def test_a_site_that_sends_noise_or_turns_its_updates_is_named(
    tmp_path: Path, kind: str, settings: dict[str, Any], reason: str, algorithm: str
) -> None:
    experiment = experiment_with(kind, rounds=4, **settings)
    changes = {"algorithm": algorithm}
    with_rule = experiment.model_copy(update={"federation": experiment.federation.model_copy(update=changes)})
    batch = {"model": experiment.model.model_copy(update={"normalisation": "batch"})}
    named = suspects(history_of(tmp_path, with_rule.model_copy(update=batch)))
    assert {site: suspect["reason"] for site, suspect in named.items()} == {"south": reason}


@pytest.mark.parametrize("algorithm", ["scaffold", "fednova", "feddyn"])
def test_a_free_rider_is_named_under_algorithms_that_ask_more_of_a_site(
    tmp_path: Path, algorithm: str
) -> None:
    faults = {"kind": "free_rider", "sites": ["south"]}
    experiment = make_experiment(
        federation={"algorithm": algorithm, "rounds": 2},
        training={"optimiser": "sgd", "learning_rate": 0.02},
        simulation={"faults": faults},
    )
    history = history_of(tmp_path, experiment)
    assert list(suspects(history)) == ["south"]
    told = history[0]["contributed"]
    assert told["south"]["steps"] == told["north"]["steps"]


def test_drift_grows_from_nothing_in_the_first_round_to_gamma_in_the_last() -> None:
    experiment = experiment_with("drift", rounds=5)
    (misconduct,) = misconduct_of(experiment, SITES).values()
    assert [misconduct.progress(n) for n in (1, 3, 5)] == [0.0, 0.5, 1.0]
    assert Misconduct("south", misconduct.faults, 0, rounds=1).progress(1) == 1.0


def test_as_many_sites_as_asked_for_are_drawn_by_seed() -> None:
    def drawn(seed: int) -> list[str]:
        faults = {"kind": "scale", "sites": 2}
        experiment = make_experiment(federation={"seed": seed}, simulation={"faults": faults})
        return list(misconduct_of(experiment, SITES))

    assert drawn(1) == drawn(1)
    assert {len(set(drawn(seed))) for seed in range(8)} == {2}
    assert len({tuple(drawn(seed)) for seed in range(8)}) > 1


@pytest.mark.parametrize(("sites", "asked"), [(["south", "elsewhere"], "elsewhere"), (5, "5 sites")])
def test_sites_that_are_not_there_are_named(sites: Any, asked: str) -> None:
    experiment = experiment_with("scale", sites=sites)
    with pytest.raises(
        FaultySitesError, match=f"asks for {asked}, but the sites are east, north, south, west"
    ):
        misconduct_of(experiment, SITES)


@pytest.mark.parametrize("kind", ["nan", "drop_out", "straggler"])
def test_without_a_quorum_a_fault_that_keeps_sites_away_is_refused_with_a_sentence(kind: str) -> None:
    with pytest.raises(ValidationError, match="set quorum, at most the number of the other sites"):
        experiment_with(kind, quorum=None)


def test_a_target_that_is_no_label_is_refused_with_the_labels() -> None:
    with pytest.raises(ValidationError, match=r"target_label must be one of \[task\] labels: square"):
        experiment_with("backdoor", target_label="circle")


def test_where_a_back_door_is_only_measured_nobody_misbehaves() -> None:
    assert misconduct_of(experiment_with("backdoor", poisoned=0.0), SITES) == {}
    with pytest.raises(FaultySitesError):
        misconduct_of(experiment_with("backdoor", poisoned=0.0, sites=["elsewhere"]), SITES)


def test_baselines_behave(tmp_path: Path) -> None:
    faults = {"kind": "scale", "sites": 1}
    baselines = {"partition": "natural", "baselines": ["pooled", "local"]}
    data = {site: make_site_data(site) for site in ("north", "south")}
    ends = []
    for folder, more in ((tmp_path / "faulty", {"faults": faults}), (tmp_path / "plain", {})):
        experiment = make_experiment(federation={"rounds": 1}, simulation={**baselines, **more})
        watch = FoldWatch(on_round=lambda model, record: None, on_stage=lambda text: None)
        result = run_fold(experiment, data, folder, compute=CPU, resume=False, watch=watch)
        assert result.attack is None
        ends.append(
            {name: t.best_dice for name, t in result.trained.items()} | {"cases": result.cases["pooled"]}
        )
    assert ends[0]["pooled"] == ends[1]["pooled"]
    assert ends[0]["cases"] == ends[1]["cases"]
    assert ends[0]["local:north"] == ends[1]["local:north"]


def own_of(folder: Path, kind: str, federation: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """The model that the south has made its own in a run of one round, and its scores."""
    experiment = make_experiment(
        federation={"rounds": 1, "quorum": 3, **federation},
        model={"normalisation": "batch"},
        training={"momentum": 0.0},
        simulation={"faults": {"kind": kind, "sites": ["south"], **settings}},
    )
    data = {site: make_site_data(site, train=2) for site in SITES}
    watch = FoldWatch(on_round=lambda model, record: None, on_stage=lambda text: None)
    result = run_fold(experiment, data, folder, compute=CPU, resume=False, watch=watch)
    scored = [case for case in result.cases.get("personal", ()) if case.site == "south"]
    return {"weights": result.personal["south"], "scores": scored}


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [("ditto", "sign_flip"), ("ditto", "free_rider"), ("fedbn", "noise"), ("fedrep", "free_rider")],
)
def test_a_fault_of_the_update_leaves_what_is_the_sites_own_as_it_would_be(
    tmp_path: Path, algorithm: str, kind: str
) -> None:
    honest = own_of(tmp_path / "honest", "drop_out", {"algorithm": algorithm}, probability=0.0)
    faulty = own_of(tmp_path / "faulty", kind, {"algorithm": algorithm})
    assert faulty["weights"] == honest["weights"]


@pytest.mark.parametrize("federation", [{"algorithm": "ditto"}, {"fine_tuning": {"epochs": 1}}])
def test_a_site_whose_update_is_nan_has_the_model_of_its_own_that_one_who_is_away_has(
    tmp_path: Path, federation: dict[str, Any]
) -> None:
    away = own_of(tmp_path / "away", "drop_out", federation, probability=1.0)
    assert own_of(tmp_path / "faulty", "nan", federation) == away
    assert all(np.isfinite(tensor).all() for tensor in load(away["weights"]).values())
    assert away["scores"]


@pytest.mark.parametrize("kind", ["sign_flip", "scale", "noise", "free_rider"])
def test_fine_tuning_at_a_misbehaving_site_is_honest(tmp_path: Path, kind: str) -> None:
    site = federation(tmp_path, experiment_with(kind)).transport._answering["south"]  # type: ignore[attr-defined]
    experiment = experiment_with(kind)
    start = initial_weights(experiment)
    ends = []
    for learn in (site.learn, train_locally):
        network = build_network(experiment.task, experiment.model, seed=0)
        cases, context = make_site_data("south").train, RoundContext("south", 1)
        report, _ = learn(
            network, cases, experiment, context=context, start=start, rule=LocalRule(is_sent=False)
        )
        ends.append((report.n_cases, report.loss, encode_tensors(get_weights(network))))
    assert ends[0] == ends[1]
