"""The guide for researchers, worked through from its first block to its last, in one folder."""

import json
from itertools import pairwise

import platformdirs
import pytest
from command_line import caller
from documents import GUIDE, blocks

LEFT_OUT = "no-test"  # installs, needs a network, takes minutes or never ends
REFUSED = "fails"  # each command is followed by the sentence that it ends with, as a comment


@pytest.fixture
def medseg(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    return caller(monkeypatch, capsys)


def save(block, folder):
    """A file that the reader is told to save; its name is its first line."""
    (folder / block.lines[0].removeprefix("# ")).write_text("\n".join(block.lines))


def assert_done(medseg, block):
    for program, *words in block.commands:
        assert program == "medseg-simulate", f"mark blocks with other programs {LEFT_OUT}: {program}"
        outcome = medseg(*words)
        assert outcome.code == 0, f"{words}: {outcome.err}"


def assert_refused(medseg, block):
    for command, sentence in list(pairwise(block.lines))[::2]:
        outcome = medseg(*command.split()[1:])
        assert outcome.code == 1, command
        assert outcome.err.splitlines()[-1] == sentence.removeprefix("# ")


@pytest.mark.slow
def test_every_command_of_the_guide_does_what_the_guide_says(medseg, tmp_path):
    for block in blocks(GUIDE):
        if block.language == "toml":
            save(block, tmp_path)
        elif block.language == "sh" and REFUSED in block.marks:
            assert_refused(medseg, block)
        elif block.language == "sh" and LEFT_OUT not in block.marks:
            assert_done(medseg, block)
    assert_left_behind(tmp_path)


def assert_left_behind(folder):
    """What the guide says that a reader has at the end."""
    summary = json.loads((folder / "runs/first/summary.json").read_text())
    assert list(summary["sites"]) == ["hospital-1", "hospital-2"]
    assert summary["pooled"]
    assert summary["local"]
    fedprox = json.loads((folder / "runs/fedprox/summary.json").read_text())
    assert (fedprox["algorithm"], fedprox["partition"], fedprox["local"]) == ("fedprox", "iid", None)
    named = ["report.html", "cases.json", "overlays", "model", "tensorboard", "experiment.toml", "run.json"]
    named += ["events.jsonl", "checkpoints", "sites", "baselines"]
    assert [name for name in named if not (folder / "runs/first" / name).exists()] == []
    predictions = json.loads((folder / "predictions/predictions.json").read_text())["predictions"]
    assert [entry["segmentation"] for entry in predictions] == [
        f"hospital-{n}-000_segmentation.nii.gz" for n in (1, 2)
    ]
    assert json.loads((folder / "scores.json").read_text())["n_cases"] == 16
    assert any((folder / "cache/cases").iterdir())
    assert_compared(folder / "runs/compare")


def assert_compared(folder):
    """What the guide says that a sweep leaves."""
    sweep = json.loads((folder / "sweep.json").read_text())
    setting = sweep["settings"]["hospitals"]
    assert list(setting["algorithms"]) == ["fedavg", "scaffold"]
    assert "needs the updates of 5 sites" in setting["failures"]["krum"]["0"]
    assert sweep["recommendation"]["answer"]
    assert (folder / "sweep.html").exists()
    assert (folder / "hospitals/seed-1/scaffold/report.html").exists()
