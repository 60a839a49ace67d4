"""What the terminal shows while a sweep runs and when it is done."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table

from medseg_core.assessment.report_text import counted, duration, megabytes, number, signed, signed_between
from medseg_simulation.sweep.results import BaselineRow, Row, SettingResult, Spread, SweepResult

WIDTH_IN_FILES = 120  # characters of a table that no terminal limits


@contextmanager
def watch_sweep(*, quiet: bool) -> "Iterator[SweepTerminal]":
    """Show progress while inside."""
    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console) as progress:
        yield SweepTerminal(progress)


class SweepTerminal:
    """Turns what happens into two bars and a line for each cell."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._cases: Any = None
        self._n_cases = 0
        self._rounds: Any = None
        self._warned: set[str] = set()
        self._counted: dict[str, str] = {}  # of sites that train alone side by side, the first one
        self._left = ""

    def on_case(self, total: int) -> None:
        """One more case is prepared; only those of the first run take time."""
        if self._n_cases == 0:
            self._cases = self._progress.add_task("cases", total=total, figures="")
        self._n_cases += 1
        if self._n_cases <= total:
            self._progress.advance(self._cases)

    def on_warning(self, text: str) -> None:
        """Something to know about the data, told once."""
        if text not in self._warned:
            self._warned.add(text)
            self._say(f"warning: {text}", style="yellow")

    def on_stage(self, text: str) -> None:
        """The parts of a run are too many to tell."""

    def on_round(self, model: str, record: dict[str, Any]) -> None:
        """A round of any model of the cell is trained; evaluations tell of the same round again."""
        if self._rounds is not None:
            dice = f"validation Dice {record['validation_dice']:.3f}" if "validation_dice" in record else ""
            figures = f"{model} round {record['round']}  {dice}  {self._left}"
            self._progress.update(self._rounds, figures=figures)
            counted_model = self._counted.setdefault(model.split(":")[0], model)
            if "validation_dice" not in record and model == counted_model:
                self._progress.advance(self._rounds)

    def on_forecast(self, left_s: float, runs: int) -> None:
        """How long it will take, first and whenever a cell ends."""
        self._left = f"about {duration(left_s)} left"
        self._say(f"{counted(runs, 'training')} to go, about {duration(left_s)} on this machine")

    def on_cell(self, name: str, models: int, rounds: int) -> None:
        """The next cell."""
        self._rounds = self._progress.add_task(name, total=models * rounds, figures=self._left)

    def on_cell_end(self, name: str, failure: str | None) -> None:
        """A cell is done, or cannot be."""
        if self._rounds is not None:
            self._progress.remove_task(self._rounds)
        self._say(
            f"{name}: {f'cannot be run: {failure}' if failure else 'done'}", style="yellow" if failure else ""
        )

    def _say(self, text: str, *, style: str = "") -> None:
        self._progress.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def show_result(result: SweepResult, out: Path) -> None:
    """A table for each setting, the recommendation in words, and where the page lies."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_IN_FILES
    for name, setting in result.settings.items():
        console.print(setting_table(name, setting, result.reference))
    told = result.recommendation
    lines = (
        *_failures(result),
        f"{told.answer}: {told.grounds}",
        *told.others,
        *told.cautions,
        f"page: {out / 'sweep.html'}",
    )
    for line in lines:
        console.print(_plain(line), highlight=False, markup=False, soft_wrap=True)


def setting_table(name: str, setting: SettingResult, reference: str | None) -> Table:
    """The rows of one setting."""
    headings = ("Dice", "worst\nsite", "gap to\npooled", "gain over\nlocal", f"against\n{reference or '-'}")
    caption = "Mean and deviation over seeds; 95 % interval of the difference. Bytes of a site in a round; "
    caption += "training added up over the sites."
    table = Table(Column(name, overflow="fold"), caption=caption, caption_justify="left", box=SIMPLE_HEAD)
    attack = ("back\ndoor",) if setting.has_attack else ()
    for heading in (*headings, *attack, "sent,\nreceived", "training"):
        table.add_column(heading, no_wrap=True)
    for label, row in setting.algorithms.items():
        named = f"{label}\n(own models)" if row.is_personal else label
        table.add_row(named, *_cells(row, has_attack=setting.has_attack))
    for label in setting.failures:
        table.add_row(label, "failed", *"-" * (len(table.columns) - 2))
    table.add_section()
    for label, baseline in setting.baselines.items():
        table.add_row(label, *_scores(baseline))
    return table


def _failures(result: SweepResult) -> list[str]:
    """What could not be run, and why; a reason that seeds or settings share is told once."""
    told = [
        f"{row} cannot be run: {reason}"
        for setting in result.settings.values()
        for row, reasons in setting.failures.items()
        for reason in reasons.values()
    ]
    return list(dict.fromkeys(told))


def _cells(row: Row, *, has_attack: bool) -> tuple[str, ...]:
    found = row.over_reference
    interval = signed_between(found.low, found.high).replace(" to ", "\nto ") if found else ""
    return (
        *_scores(row),
        _spread(row.gap_to_pooled, sign=True),
        _spread(row.gain_over_local, sign=True),
        _plain(f"{signed(found.dice)}\n{interval}") if found else "-",
        *([_spread(row.attack_success)] if has_attack else []),
        f"{megabytes(row.bytes_up)}\n{megabytes(row.bytes_down)}",
        duration(row.training_s.mean),
    )


def _scores(row: BaselineRow) -> tuple[str, str]:
    return _spread(row.dice), _spread(row.worst_site)


def _spread(found: Spread | None, *, sign: bool = False) -> str:
    if found is None:
        return "-"
    mean = signed(found.mean) if sign else number(found.mean)
    return _plain(mean if found.deviation is None else f"{mean}\n+-{number(found.deviation)}")


def _plain(text: str) -> str:
    """In signs that every terminal has."""
    return text.replace("\N{MINUS SIGN}", "-")
