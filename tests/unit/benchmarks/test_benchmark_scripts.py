"""The scripts of the benchmarks, which run for minutes to hours and by hand: they start, and what fails shows."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py"))


def load(script: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, under a name that no other has: `codecs` is one of Python's own."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    name = f"benchmark_{Path(script).stem}"
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_imports_what_is_there(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(script, monkeypatch).__doc__


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([10, 20, 30], 1.0),
        ([10, 20, 50], 2.0),
        ([10, 9, 10], 0.0),  # no growth at all
        ([10, 9, 100], None),  # whatever it is, the first two do not tell
    ],
)
def test_growth_that_cannot_be_told_reaches_no_aim(
    costs: list[float], expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    growth = load("growth.py", monkeypatch)
    points = [growth.Point(size, cost, cost) for size, cost in zip((1, 2, 3), costs, strict=True)]
    assert growth.exponent(points, costs) == (expected if expected is None else pytest.approx(expected))
    found = growth.rows("sites", points)
    assert [row["reached"] for row in found] == [expected is not None and expected <= growth.LINEAR] * 2


class EndingRun:
    """A run that ends well at once, whatever happens meanwhile."""

    def wait(self, timeout: float) -> int:
        return 0

    def poll(self) -> int:
        return 0

    def kill(self) -> None:
        pass


class Federation:
    """One whose runs have no round."""

    events: ClassVar[list[object]] = []
    run = Path()

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, 0

    @property
    def runs(self) -> list[int]:
        self.asked += 1
        return list(range(self.asked))

    def weights(self, run: Path) -> bytes:
        return b""


@pytest.mark.parametrize("name", ["stalled", "straggler", "restarted"])
def test_a_disturbance_that_failed_fails_its_scenario(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_network = load("bad_network.py", monkeypatch)
    monkeypatch.setattr(bad_network.subprocess, "Popen", lambda *words, **how: EndingRun())
    monkeypatch.setattr(bad_network, "program", lambda name: name)
    monkeypatch.setattr(bad_network, "call", lambda *words: None)
    with pytest.raises(AssertionError, match=r"before its first round did: see runs\.log"):
        bad_network._run(Federation(tmp_path), SimpleNamespace(weather=SimpleNamespace()), name)


def test_a_benchmark_uses_no_run_of_another_commit_experiment_or_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = load("kept_runs.py", monkeypatch)
    begun: list[bool] = []

    def simulate(command: list[str], **how: object) -> None:
        folder = Path(command[command.index("--out") + 1])
        begun.append("--resume" in command)
        folder.mkdir(exist_ok=True)
        (folder / "summary.json").write_text(json.dumps({"run": len(begun)}))

    monkeypatch.setattr(kept.subprocess, "run", simulate)
    monkeypatch.setattr(kept, "commit", lambda: state["commit"])
    state = {"commit": "5d1f0df9a3c4"}

    def run(seed: int = 0, data: str = "data") -> int:
        experiment = kept.preset_with("hippocampus", {"federation": {"seed": seed}})
        summary = kept.ensure_run(tmp_path / "out" / "one", experiment, tmp_path / data, tmp_path / "cache")
        return int(summary["run"])

    assert (run(), run()) == (1, 1)
    (tmp_path / "out" / "one" / "summary.json").unlink()
    assert run() == 2
    assert begun == [False, True]  # the same goes on
    state["commit"] = "000000000000"
    assert (run(), run(), run(data="other")) == (3, 3, 4)
    assert (run(1, data="other"), run(1, data="other")) == (5, 5)
    state["commit"] += "-dirty"
    assert (run(1, data="other"), run(1, data="other")) == (6, 7)  # nobody knows what was changed since
    assert begun[2:] == [False] * 5
