"""`presets`, `report`, and how quickly the command line answers."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import caller
from trained_model import write_trained

from medseg_core.commands.predict import files_of
from medseg_core.learning.model_package import read_model
from medseg_simulation.preset_files import describe_preset, preset_names

HEAVY = {"torch", "monai", "SimpleITK", "matplotlib", "scipy", "skimage"}


@pytest.fixture
def medseg(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


def test_help_waits_for_no_heavy_package():
    script = f"import sys, medseg_simulation.cli; print({HEAVY!r} & sys.modules.keys() or 'none')"

    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert answer.stdout == "none\n"


@pytest.mark.parametrize("command", ["predict", "evaluate", "report", "presets", "sweep"])
def test_every_command_and_option_has_help(medseg, command):
    outcome = medseg(command, "--help")

    assert outcome.code == 0
    for line in outcome.out.splitlines():
        if line.startswith("│ *  --") or line.startswith("│    --"):
            words = line.strip("│ *").split()
            assert len(words) > 2, line


def test_presets_lists_each_with_its_size(medseg, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    outcome = medseg("presets")

    assert outcome.code == 0
    for name in preset_names():
        assert name in outcome.out
    (row,) = (line for line in outcome.out.splitlines() if "hippocampus " in line and "3D" in line)
    assert "anterior, posterior" in row
    assert "1,187,766" in row


def test_a_preset_is_described_by_the_comment_of_its_file():
    assert describe_preset("sarcoma").startswith("Soft-tissue sarcoma in T1 MR")
    assert all(describe_preset(name) for name in preset_names())


def test_report_of_a_folder_that_is_no_run_says_what_is_missing(medseg, tmp_path):
    outcome = medseg("report", tmp_path)

    assert outcome.code == 1
    assert "summary.json" in outcome.err
    assert "finished run" in outcome.err


def test_a_path_with_a_comma_is_one_file_where_it_is_there(tmp_path):
    both = tmp_path / "a,b.png"
    both.touch()

    assert files_of(str(both)) == [both]
    assert [path.name for path in files_of(f"{tmp_path}/a.png,{tmp_path}/b.png")] == ["a.png", "b.png"]
    assert files_of("a.png,,b.png,") == [
        Path("a.png"),
        None,
        Path("b.png"),
        None,
    ]  # blanks are missing channels
    assert files_of("a" * 5000) == [Path("a" * 5000)]  # longer than any file system takes


def test_a_model_names_itself_by_its_weights(tmp_path):
    write_trained(tmp_path)

    identity = read_model(tmp_path).identity

    assert set(identity) == {"task", "run", "version", "weights_sha256"}
    assert identity["task"] == "squares"
