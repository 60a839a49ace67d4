"""Experiments that come with the package, by name."""

from importlib.resources import files
from itertools import takewhile
from pathlib import Path

from medseg_core.config import Experiment, read_experiment
from medseg_simulation.errors import UnknownPresetError

_FOLDER = Path(str(files("medseg_simulation"))) / "presets"


def preset_names() -> list[str]:
    """The names that `--preset` takes."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_preset(name: str) -> Experiment:
    """A preset's experiment. Raises UnknownPresetError."""
    if name not in preset_names():
        raise UnknownPresetError(name, preset_names())
    return read_experiment(_FOLDER / f"{name}.toml")


def describe_preset(name: str) -> str:
    """What a preset is for: the comment that its file begins with. Raises UnknownPresetError."""
    read_preset(name)
    lines = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
