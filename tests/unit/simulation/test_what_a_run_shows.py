"""The terminal while a run goes on, and its table at the end, in a window of 80 columns."""

import io

import pytest
from builders import make_experiment
from rich.console import Console
from rich.progress import Progress

from medseg_simulation.commands.progress import Terminal, scores_table, watch_terminal


def scores(dice: float, **more) -> dict:
    return {"dice": dice, "dice_low": dice - 0.1, "dice_high": dice + 0.1, "n_patients": 3} | more


def model(*sites: str, dice: float = 0.5, **more) -> dict:
    return {"mean": {"dice": dice}, "sites": {site: scores(dice, **more) for site in sites}}


def lines_of(summary: dict) -> list[str]:
    console = Console(width=80, file=io.StringIO())
    console.print(scores_table(summary))
    return console.file.getvalue().splitlines()


def test_a_site_has_a_row_and_a_model_a_column():
    summary = {"global": model("north", "south"), "local": model("north", "south", dice=0.4), "pooled": None}

    lines = lines_of(summary)

    (header,) = [line for line in lines if "test Dice" in line]
    assert [cell.strip() for cell in header.split("┃")[1:-1]] == [
        "test Dice",
        "patients",
        "shared model",
        "own model",
    ]
    (north,) = [line for line in lines if "north" in line]
    assert [cell.strip() for cell in north.split("│")[1:-1]] == [
        "north",
        "3",
        "0.500 (0.400 to 0.600)",
        "0.400",
    ]
    (everyone,) = [line for line in lines if "all cases" in line]
    assert [cell.strip() for cell in everyone.split("│")[1:-1]] == ["all cases", "6", "0.500", "0.400"]


def test_twenty_sites_fit_in_80_columns():
    sites = [f"hospital-of-saint-elsewhere-{n}" for n in range(20)]
    models = dict.fromkeys(("global", "local", "pooled"), model(*sites))

    lines = lines_of(models)

    assert max(map(len, lines)) <= 80
    assert sum("0.500 (0.400 to 0.600)" in line for line in lines) == 20


def test_one_patient_has_no_interval():
    lines = lines_of({"global": model("north", dice_low=None), "local": None, "pooled": None})

    assert not any("(0.4" in line for line in lines)


def test_the_legend_explains_the_columns_that_are_there():
    alone = " ".join(lines_of({"global": model("north"), "local": None, "pooled": None}))

    assert "Shared model: trained across the sites" in alone
    assert "Pooled" not in alone


@pytest.fixture
def terminal():
    progress = Progress(console=Console(width=80, file=io.StringIO()))
    return Terminal(progress, make_experiment(federation={"rounds": 4})), progress


def record(number: int, **scores) -> dict:
    return {"round": number, "training_loss": 1.25, **scores}


def test_each_model_has_a_bar_with_its_round_loss_and_validation(terminal):
    watch, progress = terminal

    watch.on_round("global", record(1))
    watch.on_round("global", record(1, validation_dice=0.5))
    watch.on_round("global", record(2))
    watch.on_round("local:north", record(3))

    bars = [(task.description, task.completed, task.total, task.fields["figures"]) for task in progress.tasks]
    assert bars == [
        (
            "global",
            2,
            4,
            "loss 1.250  validation Dice 0.500",
        ),  # of round 1: that of round 2 comes with round 3
        ("local:north", 3, 4, "loss 1.250"),
    ]


def test_the_bars_of_a_fold_give_way_to_those_of_the_next_and_stay_at_the_end(terminal):
    watch, progress = terminal
    watch.on_case(8)
    watch.on_stage("fold 1 of 2")
    watch.on_round("global", record(4))
    watch.on_round("pooled", record(4))

    watch.on_stage("fold 2 of 2")
    watch.on_round("global", record(1))
    watch.on_stage("writing the report")

    assert [(task.description, task.completed) for task in progress.tasks] == [("cases", 1), ("global", 1)]


def test_a_quiet_terminal_says_nothing(capsys):
    with watch_terminal(make_experiment(), quiet=True) as watch:
        watch.on_stage("reading and checking cases")
        watch.on_warning("odd")
        watch.on_round("global", record(1))

    assert capsys.readouterr() == ("", "")
