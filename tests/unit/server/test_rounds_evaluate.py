"""Rounds look at validation alone, the best is chosen by it, and a site that cannot score stops nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import (
    ScriptedTransport,
    constant_update,
    make_experiment,
    make_federation,
    make_run,
    make_site_data,
    scripted_site,
    site_key,
)

from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.errors import SiteAnswersError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope, seal
from medseg_core.wire.header import refusal_to, reply_to
from medseg_server import evaluating
from medseg_server.rounds import Run, train

EXPERIMENT = make_experiment(federation={"rounds": 3})


class PoisonedCase(PreprocessedCase):
    """A case whose voxels may not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("image", "label", "foreground"):
            raise AssertionError("a test case was read")
        return super().__getattribute__(name)


def poisoned(case: PreprocessedCase) -> PoisonedCase:
    fields = ("case", "image", "label", "foreground", "geometry", "original", "label_voxels")
    return PoisonedCase(**{name: getattr(case, name) for name in fields})


def run_with(folder: Path, dice: dict[str, Callable[[Envelope], float | None]], **sections: Any) -> Run:
    experiment = make_experiment(**{"federation": {"rounds": 3}, **sections})
    answers = {
        site: scripted_site(site, constant_update(experiment, 0.1), dice=score)
        for site, score in dice.items()
    }
    return make_run(folder, experiment, ScriptedTransport(answers))


def by_round(*scores: float) -> Callable[[Envelope], float]:
    return lambda request: scores[request.header.round - 1]


def test_rounds_read_no_test_case(tmp_path: Path) -> None:
    data = make_site_data("north")
    data = replace(data, test=tuple(map(poisoned, data.test)))
    run = make_federation(tmp_path, EXPERIMENT, {"north": data})
    trained = train(run)
    assert trained.cases["north"]["test_cases"] == 2
    with pytest.raises(AssertionError, match="a test case was read"):
        evaluating.test_chosen(run, trained.best_round, ("north",))


def test_the_chosen_model_is_scored_on_the_test_cases_of_every_site(tmp_path: Path) -> None:
    data = {site: make_site_data(site, test=2) for site in ("north", "south")}
    run = make_federation(tmp_path, EXPERIMENT, data)
    scores = evaluating.test_chosen(run, train(run).best_round, ("north", "south"))
    assert {site: own["cases"] for site, own in scores.items()} == {"north": 2, "south": 2}
    assert all(0 <= own["dice"] <= 1 for own in scores.values())


def test_the_best_round_is_chosen_by_validation_and_its_model_is_kept(tmp_path: Path) -> None:
    run = run_with(tmp_path, {"north": by_round(0.2, 0.6, 0.6, 0.3, 0.1)}, federation={"rounds": 5})
    trained = train(run)
    assert (trained.best_round, trained.best_dice) == (2, 0.6)  # the first of equals
    kept = sorted(path.name for path in run.store.checkpoints.iterdir())
    assert kept == ["round_0002", "round_0004", "round_0005"]


def test_validation_is_a_mean_over_cases(tmp_path: Path) -> None:
    data = {"north": make_site_data("north", validation=3), "south": make_site_data("south", validation=1)}
    record = train(make_federation(tmp_path, EXPERIMENT, data)).history[-1]
    assert record["validation_dice"] == pytest.approx(
        (3 * record["sites"]["north"] + record["sites"]["south"]) / 4
    )


def test_only_every_nth_round_is_evaluated_and_always_the_last(tmp_path: Path) -> None:
    run = run_with(
        tmp_path, {"north": by_round(*(0.1,) * 5)}, federation={"rounds": 5}, evaluation={"every_rounds": 2}
    )
    assert ["validation_dice" in record for record in train(run).history] == [False, True, False, True, True]


@pytest.mark.parametrize("score", [None, -0.1, 1.5, 1e300])
def test_a_score_that_no_case_can_have_is_not_believed(tmp_path: Path, score: float | None) -> None:
    run = run_with(tmp_path, {"north": by_round(0.1, 0.2, 0.3), "south": lambda request: score})
    trained = train(run)
    assert trained.best_round == 3
    assert [e["absent"] for e in run.store.events("evaluated")] == [{"south": "bad_score"}] * 3
    assert trained.history[0]["sites"] == {"north": 0.1}


@pytest.mark.parametrize("counts", [{"cases": 99}, {}])
def test_a_score_over_other_cases_than_described_is_not_believed(
    tmp_path: Path, counts: dict[str, int]
) -> None:
    plain = scripted_site("south", constant_update(EXPERIMENT, 0.1))

    def lying(request: Envelope) -> bytes | list[bytes] | None:
        if request.header.kind != "evaluate":
            return plain(request)
        reply = reply_to(request.header, counts=counts, scalars={"dice": 1.0})
        return seal(reply, b"", site_key("south")).to_bytes()

    answers = {"north": scripted_site("north", constant_update(EXPERIMENT, 0.1)), "south": lying}
    run = make_run(tmp_path, EXPERIMENT, ScriptedTransport(answers))
    assert train(run).history[0]["sites"] == {"north": 0.5}
    assert run.store.events("evaluated")[0]["absent"] == {"south": "bad_count"}


def refusing_evaluation(site: str) -> Callable[[Envelope], Any]:
    plain = scripted_site(site, constant_update(EXPERIMENT, 0.1))

    def answer(request: Envelope) -> Any:
        if request.header.kind == "evaluate":
            return seal(refusal_to(request.header, RefusalCode.DATA_FAULT), b"", site_key(site)).to_bytes()
        return plain(request)

    return answer


def test_a_site_that_cannot_score_is_named_and_the_others_decide(tmp_path: Path) -> None:
    answers = {
        "north": scripted_site("north", constant_update(EXPERIMENT, 0.1)),
        "south": refusing_evaluation("south"),
    }
    run = make_run(tmp_path, EXPERIMENT, ScriptedTransport(answers))
    assert train(run).history[-1]["validation_dice"] == 0.5
    assert run.store.events("evaluated")[-1]["absent"] == {"south": "data_fault"}


def test_a_site_that_went_away_is_named_among_those_who_did_not_score(tmp_path: Path) -> None:
    answers = {s: scripted_site(s, constant_update(EXPERIMENT, 0.1)) for s in ("north", "south")}
    transport = ScriptedTransport(answers)
    run = replace(
        make_run(tmp_path, make_experiment(federation={"quorum": 1}), transport),
        on_round=lambda record: setattr(transport, "connected", ("north",)),
    )
    transport.answers = {
        **answers,
        "south": lambda r: answers["south"](r) if not transport.connected else None,
    }
    train(run)
    assert run.store.events("evaluated")[0]["absent"] == {"south": "deadline"}


def test_where_nobody_scores_the_run_stops_with_the_reasons(tmp_path: Path) -> None:
    run = make_run(tmp_path, EXPERIMENT, ScriptedTransport({"north": refusing_evaluation("north")}))
    with pytest.raises(SiteAnswersError, match=r"'evaluate' from north \(data_fault\)"):
        train(run)


def test_a_site_without_validation_cases_has_no_say(tmp_path: Path) -> None:
    data = {"north": make_site_data("north"), "south": make_site_data("south", validation=0)}
    record = train(make_federation(tmp_path, EXPERIMENT, data)).history[-1]
    assert list(record["sites"]) == ["north"]
