"""The report as a reader's browser gets it: complete, self-contained, escaped, whatever the run."""

import json
import re
import shutil
from pathlib import Path

import pytest
from fake_run import write_run
from html_page import Page

from medseg_core.assessment.report import write_report
from medseg_core.assessment.report_conduct import build_conduct
from medseg_core.assessment.summary import read_summary
from medseg_core.errors import ExperimentFileError, UnreadableRunError

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
    "$\\frac{x$",
    "O'Brien & Sons",
    "東京病院",
)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory) -> Path:
    """A run of three sites, for tests that only read it."""
    folder = tmp_path_factory.mktemp("plain")
    write_run(folder, sites=("Aarhus", "Basel", "Cork"))
    return folder


@pytest.fixture
def run(plain_run, tmp_path) -> Path:
    """A copy of that run to spoil."""
    return shutil.copytree(plain_run, tmp_path / "run")


@pytest.mark.parametrize(
    "options",
    [
        {"sites": ("A",), "labels": 4},
        {"sites": tuple(f"Hospital {n}" for n in range(10)), "labels": 1, "overlays": False, "cases": 2},
        {"folds": 3, "sites": ("GE", "Siemens")},
        {"dims": 2, "labels": 1, "sites": ("CHASE", "DRIVE"), "baselines": False},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_every_kind_of_run_gets_a_whole_report(tmp_path, options):
    summary = write_run(tmp_path, **options)

    page = Page(write_report(tmp_path))

    for heading in (
        "Who gains",
        "Worst cases",
        "Every model at every site",
        "Learning curves",
        "Who took part",
    ):
        assert heading in page.text
    for site, scores in summary["global"]["sites"].items():
        assert site in page.text
        assert f"{scores['dice']:.3f}" in page.text
    assert ("What the shared model draws" in page.text) == options.get("overlays", True)
    assert ("HD95 (px)" in page.text) == (options.get("dims") == 2)
    assert "Research use only, not a medical device" in page.text
    assert "nan" not in page.text.lower().split()


def test_the_report_asks_nothing_from_outside_and_runs_nothing(plain_run):
    page = Page(write_report(plain_run))

    assert all(
        link.startswith(("#", "data:image/")) for link in page.attributes("href") + page.attributes("src")
    )
    assert all(link.startswith("#") for link in page.attributes("xlink:href"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "@import" not in page.html
    assert not any("url(" in style and "url(#" not in style for style in page.attributes("style"))
    assert "default-src 'none'" in page.attributes("content")[1]


def test_names_from_the_files_are_shown_and_never_obeyed(tmp_path):
    write_run(tmp_path, sites=HOSTILE, cases=2)

    page = Page(write_report(tmp_path))

    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for name in HOSTILE:
        assert name in page.text


def test_pictures_and_tables_can_be_read_aloud(plain_run):
    page = Page(write_report(plain_run))

    assert ("html", {"lang": "en"}) in page.tags
    assert all(attributes.get("aria-label") for _, attributes in page.tags if attributes.get("role") == "img")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    assert sum("outlines of truth and prediction" in text for text in page.attributes("aria-label")) == 8
    assert any("Shared model: highest validation Dice" in text for text in page.attributes("aria-label"))


def test_one_run_gives_one_report_to_the_byte(plain_run):
    assert write_report(plain_run).read_bytes() == write_report(plain_run).read_bytes()


def test_who_was_missing_and_why_stands_in_the_report(plain_run):
    page = Page(write_report(plain_run))

    assert "deadline passed (2 rounds: 6 and 7)" in page.text
    assert "14 of 16" in page.text


def test_who_misbehaved_and_who_is_suspected_stands_in_one_table(run):
    path = run / "summary.json"
    attack = {"n_voxels": 1200, "success_rate": 0.875, "clean_rate": 0.125}
    facts = {
        "suspects": {"Cork": {"reason": "small_updates", "rounds": [1, 2]}},
        "faults": {"kind": "backdoor", "sites": ["Basel"], "attack": attack},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    text = " ".join(re.sub("[\u2068\u2069]", "", Page(write_report(run)).text).split())

    assert "Basel teach the model a back door – –" in text
    assert "Cork – updates far too small for its cases: it may not have trained 1 and 2" in text
    assert "gives away a share of 0.875; of the same voxels without the trigger 0.125" in text


def test_a_back_door_that_nobody_teaches_is_measured_and_names_no_site(run):
    path = run / "summary.json"
    attack = {"n_voxels": 1200, "success_rate": 0.25, "clean_rate": 0.125}
    facts = {"faults": {"kind": "backdoor", "sites": [], "attack": attack}}
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    text = " ".join(Page(write_report(run)).text.split())

    assert "No site misbehaves or is suspected" in text
    assert "Was made to" not in text
    assert "gives away a share of 0.250" in text


def test_where_all_behave_there_is_no_such_table(plain_run):
    assert "Misbehaviour" not in Page(write_report(plain_run)).text


def test_suspicions_of_folds_name_fold_and_round(tmp_path):
    write_run(tmp_path, sites=("A", "B"), folds=2, overlays=False)
    path = tmp_path / "summary.json"
    suspect = {"reason": "small_updates", "rounds": [3]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"suspects": [{}, {"B": suspect}]}))

    (line,) = build_conduct(read_summary(path))

    assert (line.site, line.made_to, line.rounds) == ("B", "", ["2/3"])


def test_without_baselines_the_report_says_how_to_get_them(tmp_path):
    write_run(tmp_path, sites=("A", "B"), baselines=False, overlays=False)

    page = Page(write_report(tmp_path))

    assert "Whether federation pays here is open" in page.text
    assert "--baselines local,pooled" in page.text
    assert "Own model" not in page.text


def test_a_damaged_picture_is_left_out(run):
    min((run / "overlays").iterdir()).write_bytes(b"PK")

    page = Page(write_report(run))

    assert sum("outlines of truth and prediction" in text for text in page.attributes("aria-label")) == 7


def test_validation_that_never_happened_leaves_the_curves_empty(run):
    summary = json.loads((run / "summary.json").read_text())
    empty = {"round": 1, "training_loss": None, "validation_dice": None, "sites": {}}
    summary["curves"] = {"global": [empty], "pooled": None, "local": None}
    summary["best"]["validation_dice"] = None
    (run / "summary.json").write_text(json.dumps(summary))

    assert "No validation was done." in Page(write_report(run)).html


def test_a_run_that_is_not_finished_gets_a_sentence(run):
    (run / "cases.json").write_text('{"global": []}')
    with pytest.raises(UnreadableRunError, match="no cases of the global model"):
        write_report(run)
    (run / "cases.json").unlink()
    with pytest.raises(UnreadableRunError, match=r"cases\.json: No such file"):
        write_report(run)


def test_a_folder_without_its_experiment_gets_a_sentence(run):
    (run / "experiment.toml").unlink()

    with pytest.raises(ExperimentFileError, match="no such file"):
        write_report(run)
