"""Runs the command lines in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

import medseg_client.cli
import medseg_server.cli
import medseg_simulation.cli

PROGRAMS = {
    "medseg-simulate": medseg_simulation.cli.main,
    "medseg-site": medseg_client.cli.main,
    "medseg-server": medseg_server.cli.main,
}


@dataclass(frozen=True)
class Outcome:
    """What a call left on the terminal."""

    code: int
    out: str
    err: str


def caller(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str = "medseg-simulate"
) -> Callable[..., Outcome]:
    """A function that takes the words after the program's name."""

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            PROGRAMS[program]()
        shown = capsys.readouterr()
        return Outcome(int(exit_.value.code or 0), shown.out, shown.err)

    return call
