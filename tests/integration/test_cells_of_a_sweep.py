"""What becomes of the cells of a sweep: those that cannot be run, and those that were run by another experiment."""

import json
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

    def run(text: str, *more: str) -> Any:
        (tmp_path / "sweep.toml").write_text(text)
        words = ["sweep", tmp_path / "sweep.toml", "--data", phantoms, "--out", tmp_path / "out"]
        outcome = call(*words, "--cache", tmp_path / "cache", *more)
        figures = tmp_path / "out/sweep.json"
        return outcome, json.loads(figures.read_text()) if figures.exists() else {}

    return run


CANNOT_BE_RUN = {
    "network": ('model.name = "attention_unet"', "Set normalisation"),
    "partition": ("simulation = { partition = 'dirichlet', sites = 4 }", "cannot give 4 sites 8 each"),
}


@pytest.mark.parametrize("why", CANNOT_BE_RUN)
def test_a_first_cell_that_cannot_be_run_is_a_row_with_its_reason(sweep, why) -> None:
    changes, reason = CANNOT_BE_RUN[why]
    bad = f'[[algorithm]]\nname = "fedprox"\nchanges.{changes}\n'

    outcome, figures = sweep(SWEEP + bad + FEDAVG)

    assert outcome.code == 0, outcome.err
    assert "to go" in outcome.err
    assert reason in figures["settings"]["hospitals"]["failures"]["fedprox"]["0"]
    assert list(figures["settings"]["hospitals"]["algorithms"]) == ["fedavg"]

    again, resumed = sweep(SWEEP + bad + FEDAVG, "--resume")

    assert again.code == 0, again.err
    assert resumed == figures


def test_a_sweep_of_which_no_cell_can_be_run_says_why_of_each(sweep) -> None:
    changes, reason = CANNOT_BE_RUN["partition"]
    outcome, figures = sweep(SWEEP.replace("training.augmentation = false", changes) + FEDAVG)

    assert outcome.code == 0, outcome.err
    assert "to go" not in outcome.err
    assert reason in figures["settings"]["hospitals"]["failures"]["fedavg"]["0"]


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
