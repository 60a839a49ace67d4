"""Runs `medseg-simulate` in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from medseg_simulation.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a call left on the terminal."""

    code: int
    out: str
    err: str


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """A function that takes the words after `medseg-simulate`."""

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["medseg-simulate", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        shown = capsys.readouterr()
        return Outcome(int(exit_.value.code or 0), shown.out, shown.err)

    return call
