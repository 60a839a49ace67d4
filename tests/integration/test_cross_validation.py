"""Folds: every patient is tested once, by a model that never trained on them, and the scores are joined."""

import json
from pathlib import Path

import pytest
from command_line import caller
from experiments import TINY

from medseg_core.assessment.scores import read_cases
from medseg_core.assessment.summary import read_summary
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

EXPERIMENT = f"""{TINY}augmentation = false
[federation]
algorithm = "fedprox"
rounds = 2
[evaluation]
every_rounds = 2
[simulation]
folds = 2
baselines = ["local", "pooled"]
"""


def test_every_case_is_tested_once_and_a_finished_run_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantoms(tmp_path / "data", PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0))
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    call, out = caller(monkeypatch, capsys), tmp_path / "out"
    words = ["run", tmp_path / "tiny.toml", "--data", tmp_path / "data", "--out", out]
    outcome = call(*words, "--cache", tmp_path / "cache")
    assert outcome.code == 0, outcome.err

    models = read_cases(out / "cases.json")
    assert set(models) == {"global", "pooled", "local:hospital-1", "local:hospital-2"}
    for cases in models.values():
        assert len(cases) == len({case.case_id for case in cases}) == 8
    read_summary(out / "summary.json")
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["best"]) == len(summary["curves"]) == len(summary["participation"]) == 2
    assert summary["local"]["sites"].keys() == {"hospital-1", "hospital-2"}
    assert (out / "report.html").exists()

    before = (out / "cases.json").read_bytes()
    assert call(*words, "--cache", tmp_path / "cache", "--resume").code == 0
    assert (out / "cases.json").read_bytes() == before
