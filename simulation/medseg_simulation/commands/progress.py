"""What the terminal shows while a simulation runs and when it is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from medseg_core.config import Experiment


@contextmanager
def watch_terminal(experiment: Experiment, *, quiet: bool) -> "Iterator[Terminal]":
    """Show progress while inside."""
    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Terminal(progress, experiment)


class Terminal:
    """Turns what happens into bars and lines."""

    def __init__(self, progress: Progress, experiment: Experiment) -> None:
        self._progress, self._experiment = progress, experiment
        self._bars: dict[str, Any] = {}

    def on_case(self, total: int) -> None:
        """One more case is prepared."""
        self._progress.advance(self._bar("cases", total))

    def on_warning(self, text: str) -> None:
        """Something to know about the data."""
        self._progress.console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)

    def on_stage(self, text: str) -> None:
        """The next part of the work begins."""
        self._progress.console.print(text, highlight=False, markup=False)
        for name in [n for n in self._bars if n != "cases"]:
            self._progress.remove_task(self._bars.pop(name))

    def on_round(self, model: str, record: dict[str, Any]) -> None:
        """A round is trained, or evaluated."""
        figures = f"loss {record['training_loss']:.3f}"
        if "validation_dice" in record:
            figures += f"  validation Dice {record['validation_dice']:.3f}"
        bar = self._bar(model, self._experiment.federation.rounds)
        self._progress.update(bar, completed=record["round"], figures=figures)

    def show(self, summary: dict[str, Any], out: Path) -> None:
        """The result as a table."""
        table = Table("test Dice", *summary["global"]["sites"], "all cases")
        for name in ("global", "pooled", "local"):
            if summary[name]:
                row = [f"{s['dice']:.3f}" for s in summary[name]["sites"].values()]
                table.add_row(name, *row, f"{summary[name]['mean']['dice']:.3f}")
        console = Console()
        console.print(table)
        console.print(f"report: {out / 'report.html'}", highlight=False, markup=False, soft_wrap=True)

    def _bar(self, name: str, total: int) -> Any:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total, figures="")
        return self._bars[name]
