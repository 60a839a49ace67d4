"""What becomes of the cells of a sweep: those that cannot be run, and those that were run by another experiment."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import caller
from experiments import TINY

from medseg_core.assessment.scores import read_cases
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

SWEEP = """
experiment = "tiny.toml"
rounds = 1
[changes]
training.augmentation = false
[[setting]]
name = "hospitals"
"""
FEDAVG = '[[algorithm]]\nname = "fedavg"\n'


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0))
    return folder


@pytest.fixture
def sweep(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    phantoms: Path,
) -> Callable[..., Any]:
    """Runs a sweep with this text in `out`; returns what the call left and the content of `sweep.json`."""
    call = caller(monkeypatch, capsys)
    (tmp_path / "tiny.toml").write_text(TINY)

    def run(text: str, *more: str, data: Path = phantoms) -> Any:
        (tmp_path / "sweep.toml").write_text(text)
        words = ["sweep", tmp_path / "sweep.toml", "--data", data, "--out", tmp_path / "out"]
        outcome = call(*words, "--cache", tmp_path / "cache", *more)
        figures = tmp_path / "out/sweep.json"
        return outcome, json.loads(figures.read_text()) if figures.exists() else {}

    return run


def test_a_first_cell_that_cannot_be_run_is_a_row_with_its_reason(sweep) -> None:
    bad = '[[algorithm]]\nname = "fedprox"\nchanges.model.name = "attention_unet"\n'

    outcome, figures = sweep(SWEEP + bad + FEDAVG)

    assert outcome.code == 0, outcome.err
    assert "to go" in outcome.err
    assert "Set normalisation" in figures["settings"]["hospitals"]["failures"]["fedprox"]["0"]
    assert list(figures["settings"]["hospitals"]["algorithms"]) == ["fedavg"]

    again, resumed = sweep(SWEEP + bad + FEDAVG, "--resume")

    assert again.code == 0, again.err
    assert resumed == figures


def test_a_sweep_of_which_no_cell_can_be_run_says_why_of_each(sweep) -> None:
    many = "simulation = { partition = 'dirichlet', sites = 4 }"
    outcome, figures = sweep(SWEEP.replace("training.augmentation = false", many) + FEDAVG)

    assert outcome.code == 0, outcome.err
    assert "to go" not in outcome.err
    assert "cannot give 4 sites 8 each" in figures["settings"]["hospitals"]["failures"]["fedavg"]["0"]


def test_a_patch_that_fits_no_network_is_said_before_anything_is_run(sweep) -> None:
    bad = '[[algorithm]]\nname = "fedprox"\nchanges.training.patch_size = [15, 15]\n'

    outcome, figures = sweep(SWEEP + FEDAVG + bad)

    assert outcome.code == 1
    assert "fedprox in setting hospitals" in outcome.err
    assert "must be a multiple of 2" in outcome.err
    assert not figures


def test_cells_of_an_experiment_that_has_changed_since_are_not_mixed_with_others(sweep, tmp_path) -> None:
    outcome, figures = sweep(SWEEP + FEDAVG)
    assert outcome.code == 0, outcome.err
    (tmp_path / "tiny.toml").write_text(TINY.replace("[4, 8]", "[8, 8]"))

    outcome, after = sweep(SWEEP + FEDAVG, "--resume")

    assert outcome.code == 1
    told = " ".join(outcome.err.split())
    assert "hospitals, seed 0, fedavg was run with another experiment" in told
    assert "choose another --out" in told
    assert after == figures

    (tmp_path / "tiny.toml").write_text(TINY)
    outcome, after = sweep(SWEEP + FEDAVG, "--resume")
    assert outcome.code == 0, outcome.err
    assert after == figures


@pytest.fixture
def other_data(tmp_path: Path, phantoms: Path) -> Path:
    """The same cases, but for one label."""
    shutil.copytree(phantoms, tmp_path / "other")
    labels = sorted((tmp_path / "other/labels").iterdir())
    shutil.copy(labels[1], labels[0])
    return tmp_path / "other"


def test_cells_on_other_data_are_not_mixed_with_others(sweep, phantoms, other_data, tmp_path) -> None:
    outcome, figures = sweep(SWEEP + FEDAVG)
    assert outcome.code == 0, outcome.err

    outcome, after = sweep(SWEEP + FEDAVG, "--resume", data=other_data)

    assert outcome.code == 1
    assert "holds a run on other data" in " ".join(outcome.err.split())
    assert after == figures

    shutil.copytree(phantoms, tmp_path / "moved")
    outcome, after = sweep(SWEEP + FEDAVG, "--resume", data=tmp_path / "moved")
    assert outcome.code == 0, outcome.err
    assert after == figures


def test_a_run_goes_on_with_the_data_of_its_start_alone(
    monkeypatch, capsys, tmp_path, phantoms, other_data
) -> None:
    call = caller(monkeypatch, capsys)
    (tmp_path / "tiny.toml").write_text(TINY)
    words = [
        "run",
        tmp_path / "tiny.toml",
        "--out",
        tmp_path / "out",
        "--cache",
        tmp_path / "cache",
        "--data",
    ]
    assert call(*words, phantoms).code == 0

    outcome = call(*words, other_data, "--resume")

    assert outcome.code == 1
    assert "images or labels are not those of its start" in " ".join(outcome.err.split())
    assert call(*words, phantoms, "--resume").code == 0


def test_candidates_and_baselines_of_an_experiment_that_has_changed_are_refused_too(sweep, tmp_path) -> None:
    text = f"""{SWEEP}{FEDAVG}candidates = [{{}}, {{ training.learning_rate = 0.01 }}]
    [tuning]
    pooled = [{{}}, {{ learning_rate = 0.01 }}]
    """.replace("rounds = 1", 'rounds = 1\nbaselines = ["pooled"]')
    outcome, _ = sweep(text)
    assert outcome.code == 0, outcome.err
    (tmp_path / "tiny.toml").write_text(TINY.replace("[4, 8]", "[8, 8]"))

    outcome, _ = sweep(text, "--resume")

    assert "hospitals, seed 0, baselines was run with another experiment" in " ".join(outcome.err.split())


def test_an_algorithm_whose_sites_have_models_of_their_own_is_scored_by_those(sweep, tmp_path) -> None:
    ditto = '[[algorithm]]\nname = "ditto"\n'
    tuned = '[[algorithm]]\nname = "fedavg"\nlabel = "tuned"\nchanges.federation.fine_tuning.epochs = 1\n'

    outcome, figures = sweep(SWEEP + FEDAVG + ditto + tuned)

    assert outcome.code == 0, outcome.err
    rows = figures["settings"]["hospitals"]["algorithms"]
    for label in ("ditto", "tuned"):
        cases = read_cases(tmp_path / f"out/hospitals/seed-0/{label}/cases.json")["personal"]
        assert rows[label]["dice"]["mean"] == pytest.approx(sum(case.dice for case in cases) / len(cases))
        assert rows[label]["is_personal"]
        assert rows[label]["over_reference"]["dice"] != 0
    assert not rows["fedavg"]["is_personal"]
    assert rows["ditto"]["validation_dice"] == rows["fedavg"]["validation_dice"]  # of the shared model
    told = " ".join(outcome.out.split())
    assert "Test scores of ditto and tuned are those of the sites' own models" in told
