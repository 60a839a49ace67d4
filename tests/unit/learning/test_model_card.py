"""The model card says what the run measured, in Markdown that renders."""

import pytest
from builders import make_experiment
from trained_model import make_summary

from medseg_core.learning.model_card import model_card

HASH = "ab" * 32


def card_of(changes=None, **sections):
    experiment = make_experiment(**sections)
    return model_card(experiment, make_summary(experiment, **(changes or {})), weights_sha256=HASH)


def test_the_card_opens_with_what_the_model_is_not():
    assert card_of().splitlines()[2] == "**Research use only, not a medical device.**"


@pytest.mark.parametrize(
    "fact",
    [
        "# squares segmentation",
        "Segments square in 2D images. A unet with 1,234 parameters, trained across 2 sites with fedavg.",
        "| 1 | grey | other | zscore |",
        "| square | 1 | 1 |",
        "Patch: 16 x 16",
        "| north | 6 (6) | 1 (1) | 3 (3) |",
        "weights of round 2, chosen by validation Dice (0.770)",
        "| south | 3 (3) | 0.700 to 0.900 | 0.750 | 0.700 | 2.500 | 0.900 |",
        "the lowest is south with Dice 0.750",
        "| all cases |  |  | 0.800 |",
        "| square | 0.800 |",
        "Licence of the data: not stated.",
        HASH,
        "medseg-simulate predict --model model",
        "python -m monai.bundle run --config_file model/configs/inference.json",
    ],
)
def test_the_card_states(fact):
    assert fact in card_of()


def test_scores_that_no_case_defines_have_no_column():
    assert "HD95 (px)" in card_of()
    assert "HD95 (mm)" not in card_of()


def test_a_single_patient_has_no_interval():
    experiment = make_experiment()
    summary = make_summary(experiment)
    summary["global"]["sites"]["north"] |= {"dice_low": None, "dice_high": None}

    assert "| north | 3 (3) | – to – |" in model_card(experiment, summary, weights_sha256=HASH)


def test_the_licence_stays_on_one_line():
    assert "Licence of the data: CC BY 4.0 | ask first." in card_of(
        task={"licence": "CC BY 4.0\n| ask first"}
    )


def test_folds_are_explained():
    best = [{"round": 1, "validation_dice": 0.5}, {"round": 2, "validation_dice": 0.9}]

    card = card_of({"best": best}, simulation={"folds": 2})

    assert "From 2-fold cross-validation" in card
    assert "weights of round 1," in card


def test_the_comparison_stands_where_it_was_made():
    assert "for comparison" not in card_of()
    assert "| pooled | 0.810 |" in card_of({"pooled": {"mean": {"dice": 0.81}}})


@pytest.mark.parametrize(
    ("sections", "difference"),
    [
        ({"task": {"spacing_mm": [1.0, 1.0]}}, "Resampling places the new grid otherwise"),
        ({"task": {"spacing_mm": [1.0, 1.0]}}, "pixels of 1 mm"),
        ({"evaluation": {"mirror": True}}, "No average over mirrored images"),
        ({}, "Files are not checked"),
    ],
)
def test_the_card_says_where_monai_differs(sections, difference):
    assert difference in card_of(**sections)


def test_every_table_has_rows_as_long_as_its_header():
    tables = [block.splitlines() for block in card_of().split("\n\n") if block.startswith("|")]

    assert len(tables) == 6
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_what_a_simulation_changed_is_among_the_limits():
    changed = {"scanner": {"strength": 0.5}, "site": {"north": {"not_annotated": ["square"]}}}
    card = card_of(task={"labels": {"square": 1, "circle": 2}}, simulation=changed)

    assert "Its images were changed as if by other scanners" in card
    assert "Not every label was annotated at north; those that were not are not in its scores." in card
    assert "other scanners;" not in card_of()
