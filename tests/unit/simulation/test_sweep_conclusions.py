"""What a sweep recommends, its page and `sweep.json`."""

import io
import json

import jsonschema
import pytest
from builders import make_experiment, make_site_data
from html_page import Page
from rich.console import Console

from medseg_simulation.commands.sweep_progress import setting_table, watch_sweep
from medseg_simulation.sweep.duration import Forecast, Pace, predict_training_s
from medseg_simulation.sweep.outcomes import Choice
from medseg_simulation.sweep.page import render_page
from medseg_simulation.sweep.recommendation import recommend
from medseg_simulation.sweep.results import (
    SCHEMA_FILE,
    BaselineRow,
    Curve,
    Difference,
    Row,
    SettingResult,
    Spread,
    SweepResult,
    Tried,
    sweep_schema,
)

TOO_FEW = "[federation] algorithm = 'krum' needs the updates of 5 sites in a round, 4 are asked. <b>"


def spread(mean: float) -> Spread:
    return Spread(mean=mean, deviation=0.01, seeds={0: mean - 0.01, 1: mean + 0.01})


def difference(dice: float, half: float) -> Difference:
    return Difference(
        dice=dice,
        low=dice - half,
        high=dice + half,
        decided_low=dice - 2 * half,
        decided_high=dice + 2 * half,
    )


def row(dice: float, *, bytes_up: float = 1e6, over: Difference | None = None) -> Row:
    return Row(
        dice=spread(dice),
        worst_site=spread(dice - 0.1),
        curve=Curve(rounds=[1, 2], validation_dice=[dice / 2, dice]),
        tuning={0: Tried(chosen=2, validation_dice=[None, dice])},
        validation_dice=spread(dice),
        gap_to_pooled=spread(0.9 - dice),
        gain_over_local=None,
        over_reference=over,
        bytes_up=bytes_up,
        bytes_down=1e6,
        training_s=spread(60.0),
    )


def setting(**rows: Row) -> SettingResult:
    pooled = BaselineRow(
        dice=spread(0.9), worst_site=spread(0.8), curve=Curve(rounds=[1], validation_dice=[0.5]), tuning={}
    )
    return SettingResult(baselines={"pooled": pooled}, algorithms=rows, failures={"krum": {0: TOO_FEW}})


def sweep(over: dict[str, Difference], **rows: Row) -> SweepResult:
    settings = {"even": setting(fedavg=row(0.8), **rows)}
    return SweepResult(
        schema=1,
        version="0",
        task="squares",
        n_parameters=1234,
        rounds=2,
        seeds=[0, 1],
        cells_left=0,
        reference="fedavg",
        settings=settings,
        over_reference=over,
        recommendation=recommend("fedavg", settings, over, seeds=2),
    )


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (difference(0.01, 0.01), "(interval −0.010 to +0.030): no more than chance explains, and fedavg"),
        (difference(0.0002, 0.0001), "(interval 0.000 to 0.000): nothing that a table shows, and fedavg"),
        (
            Difference(dice=0.1, low=0.05, high=0.2, decided_low=None, decided_high=None),
            "(fewer than 6 test patients, so nothing is decided), and fedavg",
        ),
    ],
)
def test_where_none_is_recommended_the_grounds_say_why(found: Difference, told: str):
    recommendation = sweep({"moon": found}, moon=row(0.8)).recommendation
    assert (recommendation.algorithm, recommendation.answer[:19]) == ("fedavg", "No difference found")
    assert told in recommendation.grounds


def test_the_best_mean_is_recommended_where_its_interval_leaves_zero_out():
    over = {
        "scaffold": difference(0.04, 0.01),
        "moon": difference(0.01, 0.01),
        "median": difference(-0.1, 0.02),
    }

    told = sweep(over, scaffold=row(0.84, bytes_up=3e6)).recommendation

    assert (told.algorithm, told.answer) == ("scaffold", "Take scaffold")
    assert "+0.040 Dice against fedavg over 1 setting and 2 seeds (interval +0.020 to +0.060)" in told.grounds
    assert "it takes 2.0 times the traffic" in told.grounds
    assert told.others == ["Did not help (no difference found): moon (+0.010).", "Worse: median (−0.100)."]
    assert any("krum" in caution for caution in told.cautions)


def test_a_higher_mean_that_is_not_sure_does_not_hide_one_that_is():
    over = {"moon": difference(0.05, 0.04), "scaffold": difference(0.04, 0.01)}

    told = sweep(over, scaffold=row(0.84), moon=row(0.85)).recommendation

    assert told.algorithm == "scaffold"
    assert told.others == ["Did not help (no difference found): moon (+0.050)."]


def test_no_difference_is_told_as_such_and_the_simplest_is_kept():
    told = sweep({"scaffold": difference(0.04, 0.03)}, scaffold=row(0.84)).recommendation

    assert told.algorithm == "fedavg"
    assert told.answer == "No difference found, so stay with fedavg"
    assert "the best mean of the others, scaffold, is +0.040" in told.grounds


def test_where_all_others_are_worse_that_is_said():
    told = sweep({"scaffold": difference(-0.04, 0.01)}, scaffold=row(0.76)).recommendation

    assert (told.algorithm, told.answer) == ("fedavg", "Stay with fedavg")
    assert "all others are worse" in told.grounds


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        (None, "holds no fedavg"),
        ("fedavg", "no other algorithm ran"),
        ("fedprox", "fedprox, which the others are compared with, could not be run"),
    ],
)
def test_without_anything_to_compare_there_is_no_recommendation(reference, why):
    told = recommend(reference, {"even": setting(fedavg=row(0.8))}, {}, seeds=1)

    assert told.algorithm is None
    assert why in told.grounds


def test_the_page_stands_alone_and_shows_what_could_not_be_run(tmp_path):
    result = sweep({"moon": difference(0.01, 0.01)}, moon=row(0.81, over=difference(0.01, 0.01)))
    (tmp_path / "sweep.html").write_text(render_page(result, sweep_text="<i>"), encoding="utf-8")

    page = Page(tmp_path / "sweep.html")

    assert TOO_FEW in page.text
    assert "No difference found, so stay with fedavg" in page.text
    assert "2: 0.810" in page.text  # the candidate that was taken
    tags = [tag for tag, _ in page.tags]
    assert tags.count("figure") == 3
    assert not {"script", "link", "i"} & set(tags)
    assert not [at for at in page.attributes("href") + page.attributes("src") if not at.startswith("#")]


def test_the_success_of_a_back_door_has_its_column_where_there_is_one(tmp_path):
    def texts(**rows: Row) -> tuple[str, str]:
        result = sweep({}, **rows)
        (tmp_path / "sweep.html").write_text(render_page(result, sweep_text=""), encoding="utf-8")
        console = Console(width=140, file=io.StringIO())
        console.print(setting_table("even", result.settings["even"], "fedavg"))
        return Page(tmp_path / "sweep.html").text, console.file.getvalue()

    attacked = row(0.81).model_copy(update={"attack_success": spread(0.625)})

    for text in texts(median=attacked):
        assert "door" in text
        assert "0.625" in text
    for text in texts(median=row(0.81)):
        assert "door" not in text


def test_a_row_of_models_of_the_sites_own_says_so(tmp_path):
    result = sweep({}, ditto=row(0.81).model_copy(update={"is_personal": True}))
    (tmp_path / "sweep.html").write_text(render_page(result, sweep_text=""), encoding="utf-8")
    console = Console(width=140, file=io.StringIO())
    console.print(setting_table("even", result.settings["even"], "fedavg"))

    page = Page(tmp_path / "sweep.html").text
    assert page.count("the sites' own models") == 2  # at the row, and before all
    assert "Test scores of ditto are those of the sites' own models" in page
    assert console.file.getvalue().count("(own models)") == 1


def test_a_sweep_fits_the_stored_schema():
    """To renew it: SCHEMA_FILE.write_text(json.dumps(sweep_schema(), indent=2) + "\\n")."""
    result = sweep({"moon": difference(0.01, 0.01)}, moon=row(0.81))
    stored = json.loads(SCHEMA_FILE.read_text())

    jsonschema.validate(json.loads(result.model_dump_json(by_alias=True)), stored)
    assert stored == sweep_schema()


def test_tuning_takes_the_highest_on_validation_and_the_first_of_equals():
    assert Choice.best_of([None, 0.5, 0.7, 0.7]).chosen == 2


def test_a_forecast_is_corrected_by_what_runs_really_took():
    forecast = Forecast(run_s=10.0, runs_left=8)
    assert forecast.left_s == 80.0

    forecast.note(2, 30.0)  # half again as long as predicted
    assert forecast.left_s == 6 * 15.0

    forecast.note(1, None)  # failed at once
    assert forecast.left_s == 5 * 15.0


@pytest.mark.parametrize(
    ("federation", "steps"),
    [
        ({"rounds": 4, "local_epochs": 2}, 4 * 2 * (1 + 2 + 3)),
        ({"rounds": 4, "algorithm": "cyclic"}, 1 + 2 + 3 + 1),  # one site in turn
        ({"rounds": 4, "algorithm": "fedrep", "fedrep": {"head_epochs": 2}}, 4 * (1 + 2) * (1 + 2 + 3)),
        ({"rounds": 4, "participants": 1, "required_sites": ["south"]}, 4 * 2),
    ],
)
def test_a_run_is_predicted_by_the_steps_of_those_who_train(federation, steps):
    data = {
        name: make_site_data(name, train=cases)
        for name, cases in {"north": 2, "south": 4, "west": 6}.items()  # in batches of two
    }
    experiment = make_experiment(federation=federation, evaluation={"every_rounds": 2})
    assert experiment.training.batch_size == 2

    predicted = predict_training_s(experiment, data, Pace(step_s=10.0, case_s=1.0))

    assert predicted == steps * 10.0 + 2 * 3 * 1.0  # and two validations at each of three sites


def test_a_round_of_sites_that_train_alone_counts_once():
    with watch_sweep(quiet=True) as watch:
        watch.on_cell("even, seed 0, baselines", 2, 3)
        for model in ("pooled", "local:north", "local:south"):
            for number in (1, 2, 3):
                watch.on_round(model, {"round": number, "training_loss": 0.1})
                watch.on_round(model, {"round": number, "training_loss": 0.1, "validation_dice": 0.5})

        (bar,) = watch._progress.tasks

        assert (bar.completed, bar.total) == (6, 6)
