"""What the command line accepts, before anything is trained."""

import numpy as np
import pytest
from command_line import caller
from PIL import Image

from medseg_core.config import experiment_toml
from medseg_core.errors import ExperimentFileError
from medseg_simulation.commands.run import RunOptions, requested_experiment
from medseg_simulation.preset_files import read_preset


@pytest.fixture
def medseg(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of one site, the second without contrast."""
    rows = ["case_id,patient_id,site,image,label"]
    for name, contrast in (("good", 200), ("flat", 0)):
        pixels = np.zeros((8, 9), np.uint8)
        pixels[2:5, 3:6] = contrast
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        Image.fromarray((pixels > 0).astype(np.uint8)).save(tmp_path / f"{name}_label.png")
        rows.append(f"{name},{name},north,{name}.png,{name}_label.png")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    return tmp_path


def options(tmp_path, **changes) -> RunOptions:
    return RunOptions(data=tmp_path, out=tmp_path / "out", **changes)


def test_a_check_counts_cases_while_it_opens_them(medseg, pictures):
    outcome = medseg("check", pictures)

    assert "cases" in outcome.err
    assert "100%" in outcome.err
    assert "2 of 2 cases opened" in outcome.out


def test_a_check_that_finds_a_fault_ends_with_1(medseg, pictures):
    outcome = medseg("check", pictures)

    assert outcome.code == 1
    assert "flat" in outcome.out


def test_a_check_takes_the_task_of_an_experiment_file(medseg, pictures):
    (pictures / "mine.toml").write_text(experiment_toml(read_preset("retina")))

    outcome = medseg("check", pictures, "--experiment", pictures / "mine.toml")

    assert outcome.code == 1
    assert "Name 1 in [task] channels" in " ".join(outcome.out.split())


def test_a_check_has_one_task(medseg, pictures):
    outcome = medseg("check", pictures, "--preset", "retina", "--experiment", pictures / "mine.toml")

    assert outcome.code == 1
    assert "give --preset or --experiment, not both" in outcome.err


def test_a_missing_option_is_named_and_nothing_else(medseg):
    outcome = medseg("run")

    assert outcome.code == 2
    assert outcome.err.strip().endswith("Missing option '--data'.")


def test_an_unknown_data_set_is_told_the_known_one(medseg, tmp_path):
    outcome = medseg("fetch", "hippocampos", "--out", tmp_path)

    assert outcome.code == 2
    assert "'hippocampos' is not 'hippocampus'" in outcome.err


def test_options_win_over_the_experiment_and_leave_the_rest(tmp_path):
    preset = read_preset("hippocampus")

    asked = requested_experiment(
        options(tmp_path, preset="hippocampus", rounds=3, sites=2, baselines="local", seed=7)
    )

    assert (asked.federation.rounds, asked.federation.seed) == (3, 7)
    assert (asked.simulation.sites, asked.simulation.baselines) == (2, ("local",))
    assert (asked.task, asked.training) == (preset.task, preset.training)
    assert asked.federation.server_momentum == preset.federation.server_momentum


def test_none_takes_the_baselines_away(tmp_path):
    assert (
        requested_experiment(options(tmp_path, preset="phantom", baselines="none")).simulation.baselines == ()
    )


def test_a_wrong_option_is_blamed_on_the_command_line(tmp_path):
    with pytest.raises(ExperimentFileError, match=r"^command line: \[federation\] rounds: .* got 0"):
        requested_experiment(options(tmp_path, preset="phantom", rounds=0))


@pytest.mark.parametrize("changes", [{}, {"preset": "phantom"}])
def test_a_run_has_one_experiment(tmp_path, changes):
    given = options(tmp_path, **changes) if not changes else options(tmp_path, experiment=tmp_path, **changes)

    with pytest.raises(ExperimentFileError, match="either an experiment file or --preset"):
        requested_experiment(given)


@pytest.mark.parametrize(
    ("partition", "is_warned"), [("natural", True), ("attribute:scanner", True), ("iid", False)]
)
def test_a_number_of_sites_that_changes_nothing_is_told(tmp_path, capsys, partition, is_warned):
    requested_experiment(options(tmp_path, preset="phantom", partition=partition, sites=3))

    assert ("--sites is not used" in capsys.readouterr().err) is is_warned
