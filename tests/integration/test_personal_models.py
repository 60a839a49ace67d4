"""Personal models from a run to its report and to predictions: every site has its own, and one must be named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Outcome, caller
from experiments import TINY
from safetensors.numpy import load

from medseg_core.assessment.scores import read_cases
from medseg_core.assessment.summary import read_summary
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

SITES = ("hospital-1", "hospital-2")
HEAD = TINY.replace("[training]", 'normalisation = "batch"\n[training]')
TAIL = """augmentation = false
learning_rate = 0.01
[simulation]
baselines = ["local"]
[federation]
rounds = 2
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantoms(folder, PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0))
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    return caller(monkeypatch, capsys)


def run(call: Callable[..., Outcome], data: Path, folder: Path, algorithm: str, more: str = "") -> Path:
    """The folder of a finished run."""
    text = f'{HEAD}{TAIL}algorithm = "{algorithm}"\n{more}\n'
    (folder / "tiny.toml").write_text(text)
    words = (
        "run",
        folder / "tiny.toml",
        "--data",
        data,
        "--out",
        folder / "out",
        "--cache",
        folder / "cache",
    )
    outcome = call(*words)
    assert outcome.code == 0, outcome.err
    (folder / "table.txt").write_text(outcome.out)
    return folder / "out"


@pytest.mark.parametrize(
    ("algorithm", "more"), [("ditto", ""), ("fedavg", "[federation.fine_tuning]\nepochs = 3")]
)
def test_a_whole_model_of_each_sites_own_stands_beside_the_shared_one(
    tmp_path: Path, data: Path, call: Callable[..., Outcome], algorithm: str, more: str
) -> None:
    out = run(call, data, tmp_path, algorithm, more)
    summary, cases = read_summary(out / "summary.json"), read_cases(out / "cases.json")
    assert summary.personal is not None
    assert summary.personal.sites.keys() == set(SITES)
    assert [case.case_id for case in cases["personal"]] == [case.case_id for case in cases["global"]]
    assert cases["personal"] != cases["global"]
    assert summary.cross is not None
    assert "personal" not in summary.cross
    page = (out / "report.html").read_text()
    assert "Personal<br>minus shared" in page
    assert "where each site makes it its own (difference " in page
    assert "personal" in (tmp_path / "table.txt").read_text()
    image = next((data / "images").glob("hospital-2-*"))
    words = ("predict", "--model", out / "model", "--image", image)
    shared, own = (tmp_path / name for name in ("shared", "own"))
    assert call(*words, "--out", shared).code == 0
    assert call(*words, "--out", own, "--site", "hospital-2").code == 0
    told = [json.loads((folder / "predictions.json").read_text()) for folder in (shared, own)]
    assert json.dumps(told[0]) != json.dumps(told[1])
    unknown = call(*words, "--out", tmp_path / "nobody", "--site", "hospital-3")
    assert unknown.code == 1
    assert (
        "there is nothing of a site hospital-3's own. Sites that have: hospital-1, hospital-2." in unknown.err
    )


def test_a_model_without_the_sites_part_says_that_one_must_be_named(
    tmp_path: Path, data: Path, call: Callable[..., Outcome]
) -> None:
    out = run(call, data, tmp_path, "fedbn")
    parts = {site: load((out / "model" / "personal" / f"{site}.safetensors").read_bytes()) for site in SITES}
    shared = load((out / "model" / "model.safetensors").read_bytes())
    assert parts["hospital-1"].keys() == parts["hospital-2"].keys()
    assert not shared.keys() & parts["hospital-1"].keys()
    assert "tensors of its own (fedbn)" in (out / "report.html").read_text()
    assert "part of the model stays at each site" in (out / "model" / "README.md").read_text()
    words = ("evaluate", "--model", out / "model", "--data", data, "--out", tmp_path / "scores.json")
    alone = call(*words)
    assert alone.code == 1
    assert "Name the site whose part to use, one of those in personal/: --site NAME" in alone.err
    assert call(*words, "--site", "hospital-1").code == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    in_run = {case.case_id: case.dice for case in read_cases(out / "cases.json")["global"]}
    own = [case for case in scores["cases"] if case["site"] == "hospital-1" and case["case_id"] in in_run]
    assert own
    assert all(case["mean"]["dice"] == pytest.approx(in_run[case["case_id"]]) for case in own)
