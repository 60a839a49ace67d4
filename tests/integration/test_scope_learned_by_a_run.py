"""At the end of a run sites tell moments of their cases, and the model's package says what cases it is for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import (
    ScriptedTransport,
    constant_update,
    make_experiment,
    make_federation,
    make_guard,
    make_run,
    make_site_data,
    opened,
    scripted_site,
    site_key,
)

from medseg_client.approval import words
from medseg_client.egress import EgressGuard, Question
from medseg_client.policy import Policy
from medseg_core.errors import WireError
from medseg_core.learning.model_package import read_model
from medseg_core.learning.scope import Moments, features_of, to_figures
from medseg_core.learning.uncertainty import uncertainty_of
from medseg_core.wire.header import SCOPE, Header, new_nonce
from medseg_server import conduct as conducting
from medseg_server.conduct import conduct
from medseg_server.evaluating import test_chosen as ask_for_test
from medseg_server.rounds import Run, train

EXPERIMENT = make_experiment()
DATA = {site: make_site_data(site, train=4, validation=3, test=3) for site in ("north", "south")}
MOMENTS = {
    "uncertainty": Moments(n=6, mean=0.25, sd=0.125),
    "spacing/0": Moments(n=6, mean=0.0, sd=0.0),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_federation(tmp_path_factory.mktemp("ended"), EXPERIMENT, DATA)
    conduct(run)
    return run


def test_the_package_holds_the_moments_over_the_cases_of_all_sites(ended: Run) -> None:
    model = read_model(ended.store.folder / "model")
    scope = model.provenance.scope
    assert scope is not None
    assert scope.sites == {"training": 2, "validation": 2}
    medians = [features_of(case)["p50/0"] for own in DATA.values() for case in own.train]
    found = scope.moments["p50/0"]
    assert (found.n, found.mean, found.sd) == (
        8,
        pytest.approx(np.mean(medians)),
        pytest.approx(np.std(medians)),
    )
    scores = [
        uncertainty_of([model.network], c, EXPERIMENT).score for own in DATA.values() for c in own.validation
    ]
    assert scope.threshold == pytest.approx(np.mean(scores) + 2 * np.std(scores))


def test_the_card_says_the_threshold_and_how_it_was_learned(ended: Run) -> None:
    card = (ended.store.folder / "model/README.md").read_text()
    scope = read_model(ended.store.folder / "model").provenance.scope
    assert scope is not None
    assert f"**{scope.threshold:.3f}** is flagged: mean + 2 standard deviations" in card
    assert "over 6 validation cases of 2 site(s)" in card
    assert "| axis 0 spacing, mm | 0.8 to 1.25 |" in card


def test_what_sites_told_survives_the_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_federation(tmp_path, EXPERIMENT, DATA)
    with monkeypatch.context() as patch:
        patch.setattr(conducting, "write_outcome", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            conduct(run)
    conduct(replace(run, transport=ScriptedTransport({}, connected=())))
    assert read_model(run.store.folder / "model").provenance.scope is not None


def test_sites_of_an_earlier_release_tell_nothing_and_the_run_ends(tmp_path: Path) -> None:
    answers = {site: scripted_site(site, constant_update(EXPERIMENT, 0.01)) for site in ("north", "south")}
    run = make_run(tmp_path, EXPERIMENT, ScriptedTransport(answers))
    assert ask_for_test(run, train(run).best_round, ("north", "south"), with_scope=True)


def released(
    guard: EgressGuard,
    patients: tuple[int, int],
    *,
    asked: bool = True,
    moments: Mapping[str, Moments] = MOMENTS,
) -> set[str]:
    """What of the moments leaves with a test score."""
    header = Header(
        kind="evaluate",
        direction="request",
        run="run",
        round=1,
        site="north",
        nonce=new_nonce(),
        task="squares",
        experiment_sha256="0" * 64,
        split="test",
        counts={"scope": 1} if asked else {},
    )
    sent = guard.release_figures(
        Question(header, b"", "1" * 64),
        counts={"cases": 9},
        scalars={"dice": 0.5} | to_figures(moments),
        n_patients=9,
        scope_patients=patients,
    )
    told = opened(sent.to_bytes()).header.scalars
    assert told.pop("dice") == 0.5
    return {name.removeprefix(SCOPE).split("/")[0] for name in told}


def test_moments_of_enough_patients_leave(tmp_path: Path) -> None:
    assert released(make_guard(tmp_path, min_patients_score=5), (5, 5)) == {"uncertainty", "spacing"}


def test_moments_of_too_few_patients_stay(tmp_path: Path) -> None:
    assert released(make_guard(tmp_path / "a", min_patients_score=5), (4, 5)) == {"uncertainty"}
    assert released(make_guard(tmp_path / "b", min_patients_score=5), (5, 4)) == {"spacing"}


def test_moments_stay_where_policy_keeps_their_statistics(tmp_path: Path) -> None:
    assert released(make_guard(tmp_path / "a", statistics=["test", "site"]), (9, 9)) == {"spacing"}
    assert released(make_guard(tmp_path / "b", statistics=["test", "validation"]), (9, 9)) == {"uncertainty"}
    assert released(make_guard(tmp_path / "c", statistics=["test"]), (9, 9)) == set()


def test_moments_that_rest_on_too_few_cases_stay(tmp_path: Path) -> None:
    rare = {**MOMENTS, "spacing/0": Moments(n=4, mean=0.0, sd=0.0)}
    assert released(make_guard(tmp_path, min_patients_score=5), (9, 9), moments=rare) == {"uncertainty"}


def test_nothing_is_told_that_was_not_asked_for() -> None:
    with pytest.raises(WireError, match="undeclared figures"):
        released(EgressGuard(site_key("north")), (9, 9), asked=False)


def test_a_hospital_is_told_of_moments_before_it_agrees() -> None:
    told = "\n".join(words(EXPERIMENT, Policy()))
    assert "mean and deviation, over training cases, of their spacing" in told
    assert "mean and deviation, over validation cases, of how unsure" in told
    assert "mean and deviation" not in "\n".join(words(EXPERIMENT, Policy(statistics=("test",))))
