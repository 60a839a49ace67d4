"""Each preset learns something real in a few minutes: a floor of accuracy on published images."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Outcome, caller

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the public data sets are not in {DATA}"),
]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    return caller(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("preset", "options", "floor"),
    [
        ("hippocampus", ["--rounds", "5"], 0.60),
        pytest.param("cardiac", ["--rounds", "2"], 0.50, marks=pytest.mark.long),
        pytest.param("retina", ["--rounds", "12"], 0.55, marks=pytest.mark.long),
        pytest.param("sarcoma", ["--rounds", "4"], 0.30, marks=pytest.mark.long),
    ],
)
def test_a_short_run_of_the_preset_reaches_its_floor(call, tmp_path, preset, options, floor):
    words = ["run", "--preset", preset, "--data", DATA / preset, "--out", tmp_path / "out"]
    outcome = call(*words, "--cache", tmp_path / "cache", *options)
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["global"]["mean"]["dice"] > floor
    assert summary["n_parameters"] <= 1_500_000


@pytest.mark.parametrize("preset", ["hippocampus", "cardiac", "retina", "sarcoma"])
def test_the_published_images_pass_the_check_of_their_preset(call, preset):
    outcome = call("check", DATA / preset, "--preset", preset)
    assert outcome.code == 0, outcome.out + outcome.err
