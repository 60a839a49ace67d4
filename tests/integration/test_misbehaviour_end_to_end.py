"""Misbehaviour from the experiment file to summary and report: on phantoms, and free riders among real cases."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import caller
from experiments import TINY

from medseg_core.assessment.summary import read_summary
from medseg_core.config import experiment_toml, parse_experiment
from medseg_simulation.phantoms import PhantomSettings, write_phantoms
from medseg_simulation.preset_files import read_preset

REAL = Path(__file__).parents[3] / "shared" / "data" / "hippocampus"


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, PhantomSettings(sites=3, cases=4, spatial_dims=2, voxel_mm=4.0))
    return folder


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs an experiment; returns its summary and its report."""
    call = caller(monkeypatch, capsys)

    def run(text: str, data: Path, name: str = "out") -> tuple[dict[str, Any], str]:
        (tmp_path / f"{name}.toml").write_text(text)
        words = ["run", tmp_path / f"{name}.toml", "--data", data, "--out", tmp_path / name]
        outcome = call(*words, "--cache", tmp_path / "cache")
        assert outcome.code == 0, outcome.err
        read_summary(tmp_path / name / "summary.json")
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        return summary, (tmp_path / name / "report.html").read_text()

    return run


def test_a_back_door_is_measured_in_folds_and_told_in_summary_and_report(simulate, phantoms) -> None:
    text = f"""{TINY}augmentation = false
    [federation]
    rounds = 2
    [simulation]
    folds = 2
    faults = {{ kind = "backdoor", sites = ["hospital-2"], trigger_voxels = 2, target_label = "lesion" }}
    """
    summary, report = simulate(text, phantoms)
    attack = summary["faults"]["attack"]
    assert (summary["faults"]["kind"], summary["faults"]["sites"]) == ("backdoor", ["hospital-2"])
    assert attack["n_voxels"] > 0
    assert 0 <= attack["clean_rate"] <= 1
    assert 0 <= attack["success_rate"] <= 1
    assert summary["suspects"] == [{}, {}]
    assert "teach the model a back door" in report


def test_a_quorum_that_cannot_be_reached_is_refused_before_anything_is_kept(
    monkeypatch, capsys, phantoms, tmp_path
) -> None:
    faults = '{ kind = "nan", sites = ["hospital-2"] }'
    text = f"{TINY}[federation]\nrounds = 2\nquorum = 3\n[simulation]\nfaults = {faults}\n"
    (tmp_path / "away.toml").write_text(text)
    words = ["run", tmp_path / "away.toml", "--data", phantoms, "--out", tmp_path / "out"]

    outcome = caller(monkeypatch, capsys)(*words, "--cache", tmp_path / "cache")

    assert outcome.code == 1
    told = " ".join(outcome.err.split())
    assert "keeps hospital-2 out of round 1" in told
    assert "Lower it to 2, or let fewer sites misbehave" in told
    assert "resume" not in told
    assert not (tmp_path / "out").exists()


def test_a_fltrust_run_weighs_sites_by_the_coordinators_own_cases(simulate, phantoms, tmp_path) -> None:
    write_phantoms(tmp_path / "own", PhantomSettings(sites=1, cases=2, spatial_dims=2, voxel_mm=4.0, seed=7))
    own = json.dumps(str(tmp_path / "own"))
    text = f"""{TINY}augmentation = false
    [federation]
    rounds = 2
    algorithm = "fltrust"
    [evaluation]
    server_data = {own}
    [simulation]
    faults = {{ kind = "sign_flip", sites = ["hospital-1"] }}
    """
    summary, _ = simulate(text, phantoms)
    events = (tmp_path / "out" / "events.jsonl").read_text().splitlines()
    rounds = [e for e in map(json.loads, events) if e["event"] == "round_finished"]
    weights = rounds[0]["diagnostics"]
    assert weights["weight_hospital-1"] == 0.0
    assert weights["weight_hospital-2"] > 0
    assert summary["faults"] == {"kind": "sign_flip", "sites": ["hospital-1"], "attack": None}


@pytest.mark.long
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the public data sets are not in {REAL.parent}")
@pytest.mark.parametrize("riders", [0, 2])
def test_among_real_sites_of_very_different_size_only_free_riders_are_named(simulate, riders: int) -> None:
    document = read_preset("hippocampus").model_dump(mode="json", exclude_none=True)
    document["model"]["channels"] = [8, 16, 32]
    document["training"]["augmentation"] = False
    document["federation"]["rounds"] = 4
    document["simulation"] |= {"sites": 8, "partition": "quantity"}
    if riders:
        document["simulation"]["faults"] = {"kind": "free_rider", "sites": riders}
    summary, _ = simulate(experiment_toml(parse_experiment(document, source="here")), REAL)
    sizes = [counts["cases"]["train"] for counts in summary["sites"].values()]
    assert max(sizes) >= 5 * min(sizes)
    assert sorted(summary["suspects"]) == (summary["faults"]["sites"] if riders else [])
