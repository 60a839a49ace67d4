"""Numbers in words, the axis, ranks, strips and outlines that the report is put together from."""

import base64
import io
import math

import numpy as np
import pytest
from fake_run import write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg_core.assessment import report_text
from medseg_core.assessment.metrics import LabelScores
from medseg_core.assessment.report_forest import build_forest
from medseg_core.assessment.report_overlays import LARGEST_PX, read_overlay
from medseg_core.assessment.report_tables import (
    Strip,
    build_matrix,
    build_participation,
    find_worst_cases,
    list_absences,
    name_ranks,
)
from medseg_core.assessment.scores import CaseScores, read_cases
from medseg_core.assessment.summary import read_summary
from medseg_core.assessment.verdict import find_gains

# ---- words -----------------------------------------------------------------------------------------------


def test_numbers_are_written_as_people_read_them():
    assert report_text.number(-0.0001) == "0.000"
    assert report_text.number(-0.25, 1) == "−0.2"
    assert [report_text.signed(value) for value in (0.0312, -0.004, 0.0001)] == ["+0.031", "−0.004", "0.000"]
    assert [report_text.percentage(value) for value in (0.123, -0.5, None)] == ["+12.3 %", "−50.0 %", "–"]
    assert report_text.between(0.8, None) == ""
    assert [report_text.duration(s) for s in (8.44, 59.96, 403, 7500)] == [
        "8.4 s",
        "1 min 0 s",
        "6 min 43 s",
        "2 h 5 min",
    ]
    assert [report_text.megabytes(n) for n in (812, 4_777_284, 1.2e9)] == ["812 B", "4.8 MB", "1.2 GB"]
    assert [report_text.counted(n, "site") for n in (1, 1234)] == ["1 site", "1 234 sites"]


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b and c"), (list("abcd"), "a, b and 2 more")],
)
def test_names_are_listed_up_to_a_number(names, text):
    assert report_text.listing(names, 3 if len(names) < 4 else 2) == text


# ---- tables ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, sites=("Aarhus", "Basel", "Cork"), overlays=False)
    return read_summary(folder / "summary.json"), read_cases(folder / "cases.json")


def cases_of(*dices: float) -> list[CaseScores]:
    scores = [LabelScores(dice, dice, None, 0.0, dice, dice, dice, dice, 0.0) for dice in dices]
    return [CaseScores(str(n), str(n), "A", {"a": score}) for n, score in enumerate(scores)]


def test_the_axis_holds_every_interval_between_round_values(run):
    summary, models = run

    forest = build_forest(summary, models, find_gains(summary, models, samples=50), samples=50)

    marks = [mark for row in (*forest.sites, forest.overall) for mark in row.marks]
    values = [value for mark in marks for value in (mark.low, mark.dice, mark.high) if value is not None]
    assert len(marks) == 12
    assert all(0 <= forest.axis.at(value) <= 100 for value in values)
    assert (forest.axis.at(forest.axis.ticks[0]), forest.axis.at(forest.axis.ticks[-1])) == (0, 100)
    assert 2 <= len(forest.axis.ticks) <= 8


@pytest.mark.parametrize(
    ("n", "ranks"),
    [(0, []), (1, ["Only case"]), (2, ["Best", "Worst"]), (3, ["Best", "Median", "Worst"]),
     (5, ["Best", "Rank 2 of 5", "Median", "Rank 4 of 5", "Worst"])],
)  # fmt: skip
def test_ranks_say_where_a_case_stands_among_all_of_its_site(n, ranks):
    named = name_ranks(cases_of(*np.linspace(0.1, 0.9, n)))

    assert [rank for rank, _ in named] == ranks
    assert [case.dice for _, case in named] == sorted((case.dice for _, case in named), reverse=True)


def test_the_matrix_marks_own_and_best(run):
    summary, _ = run

    matrix = build_matrix(summary)

    assert list(matrix) == ["global", "pooled", "local:Aarhus", "local:Basel", "local:Cork"]
    assert matrix["local:Basel"]["Basel"].is_own
    assert not matrix["local:Basel"]["Cork"].is_own
    for site in summary.sites:
        (best,) = [model for model, cells in matrix.items() if cells[site].is_best]
        assert matrix[best][site].dice == max(cells[site].dice for cells in matrix.values())


def test_worst_cases_come_with_what_the_other_models_did(run):
    _, models = run

    worst = find_worst_cases(models)

    assert [case.scores.dice for case in worst] == sorted(c.dice for c in models["global"])[: len(worst)]
    own = {
        (c.site, c.case_id): c.dice
        for name, cases in models.items()
        for c in cases
        if name == f"local:{c.site}"
    }
    assert all(case.own_dice == own[case.scores.site, case.scores.case_id] for case in worst)


def test_participation_is_told_by_site_and_reason(run):
    summary, _ = run

    aarhus, _, cork = build_participation(summary)

    assert (aarhus.n_rounds, cork.n_rounds) == (16, 14)
    assert aarhus.strips == (Strip(0.0, 100.0, True),)
    assert cork.strips == (Strip(0.0, 31.25, True), Strip(31.25, 12.5, False), Strip(43.75, 56.25, True))
    assert cork.bytes_up == 14 * 4_777_284
    (absence,) = list_absences(summary)
    assert (absence.site, absence.reason, absence.rounds) == ("Cork", "deadline passed", ["6", "7"])


# ---- overlays --------------------------------------------------------------------------------------------


def store(path, truth, prediction=None, image=None, aspect=1.0):
    arrays = {"truth": truth, "prediction": truth if prediction is None else prediction}
    np.savez(path, image=np.zeros_like(truth) if image is None else image, aspect=aspect, **arrays)
    return read_overlay(path)


def corners(path: str) -> list[list[tuple[int, int]]]:
    outlines = [list(map(int, part.strip("M").split())) for part in path.split("Z") if part]
    return [list(zip(numbers[::2], numbers[1::2], strict=True)) for numbers in outlines]


def test_a_picture_lies_as_on_a_screen_first_axis_to_the_right(tmp_path):
    truth = np.zeros((30, 20), np.uint8)
    truth[25, 4] = 1

    overlay = store(tmp_path / "a.npz", truth, aspect=2.0)

    (outline,) = corners(overlay.truth)
    centre = np.mean(outline, axis=0) * overlay.half_step
    assert len(outline) == 4
    assert (overlay.width, overlay.height) == (
        12,
        24,
    )  # a window of 0.4 x 30 pixels, each twice as high as wide
    assert tuple(centre) == (25.5 - 18, 2 * (4.5 - 0))


def test_an_outline_has_corners_only_and_a_hole_of_its_own(tmp_path):
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    truth[15:20, 15:20] = 0

    outer, inner = sorted(corners(store(tmp_path / "a.npz", truth).truth), key=lambda points: min(points))

    assert (len(outer), len(inner)) == (8, 8)
    assert np.ptp(outer, axis=0).tolist() == [40, 40]  # 20 pixels in half steps
    assert np.ptp(inner, axis=0).tolist() == [10, 10]


def test_what_is_not_annotated_is_not_outlined(tmp_path):
    truth = np.full((20, 20), 255, np.uint8)

    overlay = store(tmp_path / "a.npz", truth, prediction=np.zeros_like(truth))

    assert (overlay.truth, overlay.prediction) == ("", "")
    assert (overlay.width, overlay.height) == (20, 20)


@pytest.mark.parametrize(
    "damage", ["truncated", "pickled", "shapes differ", "no aspect", "four channels", "text"]
)
def test_a_damaged_picture_is_no_picture(tmp_path, damage):
    path, square = tmp_path / "a.npz", np.zeros((6, 6), np.uint8)
    arrays = {"image": square, "truth": square, "prediction": square, "aspect": 1.0}
    arrays |= {
        "pickled": {"image": np.array([{}], dtype=object)},
        "shapes differ": {"truth": np.zeros((6, 5), np.uint8)},
        "no aspect": {"aspect": math.nan},
        "four channels": {"image": np.zeros((6, 6, 4), np.uint8)},
    }.get(damage, {})
    np.savez(path, **arrays)
    if damage in ("truncated", "text"):
        path.write_bytes(path.read_bytes()[:200] if damage == "truncated" else b"hello")

    assert read_overlay(path) is None


def test_thin_structures_are_told_from_solid_ones(tmp_path):
    vessel, lesion = np.zeros((200, 200), np.uint8), np.zeros((200, 200), np.uint8)
    vessel[:, 100:102] = 1
    lesion[80:120, 80:120] = 1

    assert store(tmp_path / "a.npz", vessel).is_thin
    assert not store(tmp_path / "b.npz", lesion).is_thin


def test_a_large_colour_picture_is_made_small_and_keeps_its_size_on_the_page(tmp_path):
    truth = np.zeros((1200, 900), np.uint8)
    truth[100:1100, 100:800] = 1
    image = np.full((1200, 900, 3), 77, np.uint8)

    overlay = store(tmp_path / "a.npz", truth, image=image)

    assert (overlay.width, overlay.height) == (1200, 900)
    kind, encoded = overlay.image.removeprefix("data:image/").split(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert (kind, picture.mode) == ("jpeg", "RGB")
    assert max(picture.size) <= LARGEST_PX


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 39), st.integers(0, 24), st.integers(1, 12))
def test_the_structure_is_inside_the_picture_wherever_it_lies(tmp_path_factory, i, j, side):
    truth = np.zeros((40, 25), np.uint8)
    truth[i : i + side, j : j + side] = 1

    overlay = store(tmp_path_factory.getbasetemp() / "window.npz", truth)

    (outline,) = corners(overlay.truth)
    points = np.array(outline) * overlay.half_step
    assert points.min() >= 0
    assert (points <= (overlay.width, overlay.height)).all()
