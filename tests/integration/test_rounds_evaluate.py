"""Rounds look at validation alone, the best is chosen by it, and a site that cannot score stops nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    ScriptedTransport,
    constant_update,
    initial_weights,
    make_experiment,
    make_federation,
    make_run,
    make_site_data,
    opened,
    scripted_site,
    site_key,
)

from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope, seal
from medseg_core.wire.header import refusal_to
from medseg_server import evaluating
from medseg_server.errors import SiteAnswersError
from medseg_server.rounds import Run, train
from medseg_server.run import best_round

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
    return lambda request: scores[(request.header.scored_round or 0) - 1]


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


def scored(number: int, sites: dict[str, float], cases: dict[str, int]) -> dict[str, Any]:
    n_cases = {site: cases[site] for site in sites}
    mean = sum(n_cases[site] * dice for site, dice in sites.items()) / sum(n_cases.values())
    return {"round": number, "validation_dice": mean, "sites": sites, "scored_cases": n_cases}


def test_a_site_that_was_away_makes_no_round_the_better() -> None:
    cases = {"north": 1, "south": 4, "west": 2}
    history = [
        scored(1, {"north": 0.8, "south": 0.4, "west": 0.7}, cases),
        {"round": 2},
        scored(3, {"north": 0.79, "west": 0.7}, cases),  # a higher mean, for want of south
        scored(4, {"south": 0.5}, cases),
        scored(5, {"south": 0.48, "west": 0.9}, cases),  # south counts twice as much
    ]
    assert [best_round(history[:n]) for n in range(1, 6)] == [1, 1, 1, 4, 4]
    others = [scored(1, {"north": 0.5}, cases), scored(2, {"south": 0.6}, cases)]
    assert best_round(others) == 2


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


@pytest.mark.parametrize("claimed", [99, None])
def test_a_score_over_other_cases_than_described_is_not_believed(tmp_path: Path, claimed: int | None) -> None:
    plain = scripted_site("south", constant_update(EXPERIMENT, 0.1))

    def lying(request: Envelope) -> bytes:
        told, asked = opened(plain(request)), request.header
        if asked.split is None:
            return told.to_bytes()
        name = "validation_cases" if asked.kind == "train" else "cases"
        counts = {n: c for n, c in told.header.counts.items() if n != name}
        header = told.header.model_copy(update={"counts": counts | ({name: claimed} if claimed else {})})
        return seal(header, told.payload, site_key("south")).to_bytes()

    answers = {"north": scripted_site("north", constant_update(EXPERIMENT, 0.1)), "south": lying}
    run = make_run(tmp_path, EXPERIMENT, ScriptedTransport(answers))
    history = train(run).history
    assert [record["sites"] for record in history] == [{"north": 0.5}] * 3
    assert [e["absent"] for e in run.store.events("evaluated")] == [{"south": "bad_count"}] * 3
    assert "south" in history[1]["contributed"]  # its update is as good as before


def test_the_score_of_a_model_comes_with_the_next_training_and_the_last_ones_alone(tmp_path: Path) -> None:
    run = run_with(tmp_path, {"north": by_round(0.1, 0.2, 0.3)})
    history = train(run).history
    assert [record["validation_dice"] for record in history] == [0.1, 0.2, 0.3]
    sent = [(e.header.kind, e.header.round, e.header.split) for e in run.transport.sent]  # type: ignore[attr-defined]
    assert sent == [
        ("describe", 0, None),
        ("train", 1, None),
        ("train", 2, "validation"),
        ("train", 3, "validation"),
        ("evaluate", 3, "validation"),
    ]


def test_a_site_that_is_not_drawn_for_training_is_asked_for_the_score_alone(tmp_path: Path) -> None:
    dice = {site: by_round(0.1, 0.2, 0.3) for site in ("east", "north", "south")}
    run = run_with(tmp_path, dice, federation={"rounds": 3, "participants": 1})
    history = train(run).history
    assert [sorted(record["sites"]) for record in history] == [["east", "north", "south"]] * 3
    assert [len(record["contributed"]) for record in history] == [1, 1, 1]
    with_training = [e.header for e in run.transport.sent if e.header.kind == "train" and e.header.split]  # type: ignore[attr-defined]
    alone = [e.header for e in run.transport.sent if e.header.kind == "evaluate"]  # type: ignore[attr-defined]
    assert (len(with_training), len(alone)) == (2, 2 * 2 + 3)


def test_the_score_of_a_site_whose_update_is_not_accepted_does_not_count(tmp_path: Path) -> None:
    shapes = initial_weights(EXPERIMENT)

    def broken(request: Envelope) -> dict[str, Any]:
        value = float("nan") if request.header.round == 2 else 0.1
        return {name: np.full(array.shape, value, np.float32) for name, array in shapes.items()}

    answers = {
        "north": scripted_site("north", constant_update(EXPERIMENT, 0.1)),
        "south": scripted_site("south", broken),
    }
    experiment = make_experiment(federation={"rounds": 3, "quorum": 1})
    run = make_run(tmp_path, experiment, ScriptedTransport(answers))
    train(run)
    assert [sorted(e["sites"]) for e in run.store.events("evaluated")] == [
        ["north"],
        ["north", "south"],
        ["north", "south"],
    ]


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
