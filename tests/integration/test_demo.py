"""The demonstration, as a person without make runs it, on any operating system."""

import json
import multiprocessing
import re
import sys
from pathlib import Path

import jsonschema
import pytest

from medseg_core.assessment.scores import read_cases
from medseg_core.assessment.summary import SCHEMA_FILE


def call_demo(folder: str) -> None:
    """What the console script does, in a process that inherits nothing."""
    sys.argv = ["medseg-simulate", "demo", "--out", folder]
    from medseg_simulation.cli import main

    main()


@pytest.mark.slow
def test_the_demo_ends_with_a_table_a_report_and_a_federation_that_pays(tmp_path: Path):
    child = multiprocessing.get_context("spawn").Process(target=call_demo, args=(str(tmp_path / "demo"),))
    child.start()
    child.join(timeout=540)
    assert child.exitcode == 0
    run = tmp_path / "demo" / "run"
    summary = json.loads((run / "summary.json").read_text())
    jsonschema.validate(summary, json.loads(SCHEMA_FILE.read_text()))
    assert summary["global"]["mean"]["dice"] > 0.65
    assert summary["global"]["mean"]["dice"] > summary["local"]["mean"]["dice"]
    assert len(summary["participation"]) == 16
    assert {model.split(":")[0] for model in read_cases(run / "cases.json")} == {"global", "pooled", "local"}
    report = (run / "report.html").read_text()
    assert "Research use only" in report
    assert not re.search(r"""(src|href|url\()\s*=?\s*["']?(https?:)?//""", report)
    assert list((run / "tensorboard").rglob("events.out.tfevents.*"))
