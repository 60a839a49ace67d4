"""`summary.json`: its stored schema, and what happens to a damaged one."""

import json

import jsonschema
import pytest
from fake_run import write_run

from medseg_core.assessment.summary import SCHEMA_FILE, read_summary, summary_schema
from medseg_core.errors import UnreadableRunError


@pytest.mark.parametrize(
    "options", [{}, {"baselines": False}, {"folds": 3}, {"dims": 2, "labels": 1}], ids=str
)
def test_a_run_fits_the_stored_schema(tmp_path, options):
    summary = write_run(tmp_path, sites=("A", "B"), overlays=False, **options)

    jsonschema.validate(summary, json.loads(SCHEMA_FILE.read_text()))


def test_the_stored_schema_is_that_of_the_code():
    """To renew it: SCHEMA_FILE.write_text(json.dumps(summary_schema(), indent=2) + "\\n")."""
    assert json.loads(SCHEMA_FILE.read_text()) == summary_schema()


def test_the_schema_knows_every_key(tmp_path):
    summary = write_run(tmp_path, sites=("A",), overlays=False)
    summary["global"]["mean"]["dise"] = 0.5

    with pytest.raises(jsonschema.ValidationError, match="dise"):
        jsonschema.validate(summary, json.loads(SCHEMA_FILE.read_text()))


def test_folds_and_a_single_split_read_alike(tmp_path):
    write_run(tmp_path / "folds", sites=("A",), overlays=False, folds=3)
    write_run(tmp_path / "split", sites=("A",), overlays=False)

    folded, single = (
        read_summary(tmp_path / "folds/summary.json"),
        read_summary(tmp_path / "split/summary.json"),
    )

    assert (len(folded.curves_by_fold), len(folded.rounds_by_fold), len(folded.best_by_fold)) == (3, 3, 3)
    assert (len(single.curves_by_fold), len(single.rounds_by_fold), len(single.best_by_fold)) == (1, 1, 1)
    assert [entry.round for entry in single.rounds_by_fold[0]] == list(range(1, 17))


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda s: s.pop("cost"), "cost: Field required"),
        (lambda s: s.update(seed="<script>"), "seed: Input should be a valid integer"),
        (lambda s: s.update(schema=2), "schema: Input should be 1"),
    ],
)
def test_a_damaged_summary_is_named_with_its_fault(tmp_path, edit, fault):
    summary = write_run(tmp_path, sites=("A",), overlays=False)
    edit(summary)
    (tmp_path / "summary.json").write_text(json.dumps(summary))

    with pytest.raises(UnreadableRunError, match=fault):
        read_summary(tmp_path / "summary.json")


def test_a_folder_without_a_summary_is_told_what_is_missing(tmp_path):
    with pytest.raises(UnreadableRunError, match=r"summary\.json: No such file"):
        read_summary(tmp_path / "summary.json")
