"""Whole runs of personalised algorithms: what is a site's own stays there; the best is tested with its state."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import ScriptedTransport, make_experiment, make_federation, make_site_data, opened
from safetensors.numpy import load

from medseg_client.personal import own_part
from medseg_client.site_state import SiteState
from medseg_core.assessment.summary import Summary
from medseg_core.config import Experiment
from medseg_core.errors import NotWholeError
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.codec import read_tensors
from medseg_core.federation.shared_tensors import initial_network
from medseg_core.learning.model_package import read_model
from medseg_core.learning.weights import get_weights
from medseg_core.wire.envelope import Envelope
from medseg_core.wire.header import PERSONAL
from medseg_server import evaluating
from medseg_server.asking import last_updates
from medseg_server.conduct import conduct
from medseg_server.errors import SiteAnswersError
from medseg_server.rounds import Run, model_spec, train
from medseg_server.summary import summarise_federation
from medseg_server.transport import Delivery

SITES = ("north", "south")


def experiment_of(algorithm: str, **federation: Any) -> Experiment:
    federation = {"algorithm": algorithm, "rounds": 3, **federation}
    return make_experiment(federation=federation, model={"normalisation": "batch"})


class Overhearing:
    """Passes everything on and keeps it."""

    def __init__(self, inner: ScriptedTransport) -> None:
        self.inner, self.envelopes = inner, list[Envelope]()

    def sites(self) -> tuple[str, ...]:
        return self.inner.sites()

    def exchange(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[Delivery]:
        self.envelopes += [opened(requests[site]) for site in requests]
        for delivery in self.inner.exchange(requests, deadline_s):
            assert delivery.envelope is not None
            self.envelopes.append(opened(delivery.envelope))
            yield delivery


def run_in(folder: Path, experiment: Experiment) -> tuple[Run, Overhearing]:
    data = {site: make_site_data(site, train=2 + n) for n, site in enumerate(SITES)}
    run = make_federation(folder, experiment, data)
    transport = Overhearing(run.transport)  # type: ignore[arg-type]
    return replace(run, transport=transport), transport


def kept_at(folder: Path, site: str, transaction: str) -> dict[str, np.ndarray]:
    joined = load((folder / "sites" / site / "run" / transaction / "memory.safetensors").read_bytes())
    return {name.removeprefix("personal/"): tensor for name, tensor in joined.items()}


@pytest.mark.parametrize("algorithm", ["fedbn", "silobn", "fedrep"])
def test_a_sites_own_tensors_differ_from_anothers_and_cross_no_boundary(
    tmp_path: Path, algorithm: str
) -> None:
    experiment = experiment_of(algorithm)
    run, transport = run_in(tmp_path, experiment)
    evaluating.test_and_read(run, train(run).best_round, dict(run.store.events("described")[0]["sites"]))
    local = build_algorithm(experiment).local_names(initial_network(experiment))
    shared = model_spec(experiment).tensors.keys()
    payloads = [e.payload for e in transport.envelopes if e.payload and e.header.kind != "describe"]
    assert len(payloads) == 3 * 2 * 2 + 2 * 2  # trained down and up; last validation and test down
    assert all(read_tensors(payload).keys() == shared for payload in payloads)
    north, south = (kept_at(tmp_path, site, "train_000003_1") for site in SITES)
    assert north.keys() == south.keys() == local
    assert all(not np.array_equal(north[name], south[name]) for name in local if north[name].size > 1)


@pytest.mark.parametrize("algorithm", ["fedbn", "ditto"])
def test_the_chosen_round_is_tested_with_the_state_of_its_sites(
    tmp_path: Path, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, transport = run_in(tmp_path, experiment_of(algorithm, rounds=7))

    def by_round(answer: Any, n_cases: int) -> float:
        return 1.0 if answer.reply.header.round == 3 else 0.2  # the model of round 2, told as round 3 trains

    monkeypatch.setattr("medseg_server.rounds._score_in", by_round)
    trained = train(run)
    assert trained.best_round == 2
    named = {
        e.header.round: (e.header.kept_round, e.header.kept_attempt)
        for e in transport.envelopes
        if e.header.kind == "train" and e.header.direction == "request"
    }
    assert named == {1: (0, 0), 2: (0, 0), 3: (1, 1), 4: (2, 1), 5: (2, 1), 6: (2, 1), 7: (2, 1)}
    evaluating.test_chosen(run, 2, SITES)
    for site in SITES:
        own = tmp_path / "sites" / site / "run" / "evaluate_test_000002_1" / "personal.safetensors"
        then = kept_at(tmp_path, site, "train_000002_1")
        assert all(np.array_equal(tensor, then[name]) for name, tensor in load(own.read_bytes()).items())


def test_a_plain_algorithm_keeps_no_state_for_the_best_model(tmp_path: Path) -> None:
    run, transport = run_in(tmp_path, experiment_of("fedavg"))
    train(run)
    assert {e.header.kept_round for e in transport.envelopes} == {0}


def test_the_last_update_in_a_model_is_the_latest_of_a_site_until_its_round() -> None:
    history = [
        {"round": 1, "attempt": 2, "contributed": {"north": {}, "south": {}}},
        {"round": 2, "attempt": 1, "contributed": {"north": {}}},
        {"round": 3, "attempt": 1, "contributed": {"south": {}}},
    ]
    assert last_updates(history, 2) == {"north": (2, 1), "south": (1, 2)}
    assert last_updates(history, 3) == {"north": (2, 1), "south": (3, 1)}


@pytest.mark.parametrize(
    "federation", [{"algorithm": "ditto"}, {"algorithm": "fedrep", "fine_tuning": {"epochs": 2}}]
)
def test_a_federation_ends_with_the_scores_of_both_models(tmp_path: Path, federation: dict[str, Any]) -> None:
    run, _ = run_in(tmp_path, experiment_of(**federation))
    trained = train(run)
    tested = evaluating.test_and_read(run, trained.best_round, trained.cases)
    run.store.event("tested", round=trained.best_round)
    summary = Summary.model_validate(summarise_federation(run, trained, tested))
    assert summary.personal is not None
    assert summary.personal.sites.keys() == summary.shared.sites.keys() == set(SITES)
    own = {site: tested.personal[site]["dice"] for site in SITES}
    assert {site: scores.dice for site, scores in summary.personal.sites.items()} == own
    assert own != {site: figures["dice"] for site, figures in tested.figures.items()}


def test_a_site_that_does_not_tell_of_its_own_model_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = run_in(tmp_path, experiment_of("ditto"))
    trained = train(run)
    whole = evaluating._evaluate

    def without(*args: Any, **wanted: Any) -> Any:
        scores, *rest = whole(*args, **wanted)
        return {s: {k: v for k, v in t.items() if PERSONAL not in k} for s, t in scores.items()}, *rest

    monkeypatch.setattr(evaluating, "_evaluate", without)
    with pytest.raises(SiteAnswersError, match="bad_count"):
        evaluating.test_and_read(run, trained.best_round, trained.cases)


def test_a_hospital_predicts_with_the_published_model_and_its_own_part(tmp_path: Path) -> None:
    experiment = experiment_of("fedbn")
    run, _ = run_in(tmp_path, experiment)
    conduct(run)
    published = tmp_path / "models" / "north" / "run"
    own = own_part(SiteState(tmp_path / "sites" / "north"), "run")
    assert own is not None
    weights = get_weights(read_model(published, own).network)
    shared, kept = load((published / "model.safetensors").read_bytes()), load(own.read_bytes())
    assert weights.keys() == shared.keys() | kept.keys()
    assert all(np.array_equal(weights[name], (shared | kept)[name]) for name in weights)
    with pytest.raises(
        NotWholeError, match="A hospital has its part once it has tested the model of the run"
    ):
        read_model(published)


def test_after_the_test_nobody_is_asked_again_for_personal_scores(tmp_path: Path) -> None:
    run, _ = run_in(tmp_path, experiment_of("ditto"))
    conduct(run)
    report = run.store.folder / "report.html"
    first, summary = report.read_bytes(), (run.store.folder / "summary.json").read_bytes()
    assert b"Personal model" in first
    assert b"where each site makes it its own" in first
    nobody = ScriptedTransport({}, connected=())
    conduct(replace(run, transport=nobody))
    assert nobody.sent == []
    assert (report.read_bytes(), (run.store.folder / "summary.json").read_bytes()) == (first, summary)


def test_who_was_not_drawn_is_scored_with_the_state_of_its_last_round(tmp_path: Path) -> None:
    run, transport = run_in(tmp_path, experiment_of("fedbn", rounds=5, participants=1))
    trained = train(run)
    assert {site for record in trained.history for site in record["contributed"]} == set(SITES)
    asked = [e.header for e in transport.envelopes if e.header.direction == "request" and e.header.split]
    for header in asked:
        scored = last_updates(list(trained.history), header.scored_round or 0)
        assert (header.counted_round, header.counted_attempt) == scored.get(header.site, (0, 0))
    assert {header.kind for header in asked} == {"train", "evaluate"}
    assert evaluating.test_chosen(run, trained.best_round, SITES).keys() == set(SITES)
