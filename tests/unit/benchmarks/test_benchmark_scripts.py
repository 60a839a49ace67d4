"""The scripts of the benchmarks, which run for minutes to hours and by hand: that they start at all."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

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
