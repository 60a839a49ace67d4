"""Bars on the terminal while DICOM is read, fetched and dealt with; each appears when there is something to count."""

import sys
from typing import Protocol, runtime_checkable

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID


@runtime_checkable
class Watch(Protocol):
    """Who is told how far things are."""

    def headers(self, done: int, total: int) -> None:
        """Files whose headers are read."""

    def fetched(self) -> None:
        """A file came from the PACS."""

    def expected(self, n: int) -> None:
        """So many more are to be dealt with."""

    def finished(self) -> None:
        """One is dealt with."""


class Bars:
    """A Watch that draws; `unit` says what is dealt with, such as studies."""

    def __init__(self, unit: str) -> None:
        self._progress = Progress(
            *Progress.get_default_columns(),
            MofNCompleteColumn(),
            console=Console(stderr=True),
            redirect_stdout=False,  # lines for a file would go to the terminal
        )
        self._unit, self._ids = unit, dict[str, TaskID]()

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *words: object) -> None:
        if self._ids:
            self._progress.stop()

    def headers(self, done: int, total: int) -> None:
        """Files whose headers are read."""
        self._progress.update(self._bar("headers"), completed=done, total=total)

    def fetched(self) -> None:
        """A file came from the PACS."""
        self._progress.advance(self._bar("files fetched"))

    def expected(self, n: int) -> None:
        """So many more are to be dealt with."""
        bar = self._bar(self._unit)
        before = next(task.total or 0 for task in self._progress.tasks if task.id == bar)
        self._progress.update(bar, total=before + n)

    def finished(self) -> None:
        """One is dealt with."""
        self._progress.advance(self._bar(self._unit))

    def say(self, line: str) -> None:
        """Show a line of results: above the bars where both are on one terminal."""
        console = self._progress.console
        if sys.stdout.isatty() and console.is_terminal:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            typer.echo(line)

    def _bar(self, name: str) -> TaskID:
        if name not in self._ids:
            self._progress.start()  # the first time
            self._ids[name] = self._progress.add_task(name, total=None)
        return self._ids[name]
