"""What the terminal shows while a simulation runs and when it is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from medseg_core.config import Experiment

MODELS = {  # in summary.json: heading of the column, and what it means
    "global": ("shared model", "trained across the sites (95 % interval over patients)"),
    "personal": ("personal", "the shared model made its own by each site"),
    "local": ("own model", "trained by the site alone"),
    "pooled": ("pooled", "trained with all data in one place"),
}


@contextmanager
def watch_terminal(experiment: Experiment, *, quiet: bool) -> "Iterator[Terminal]":
    """Show progress while inside."""
    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description}", table_column=Column(min_width=16, max_width=28, no_wrap=True)),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Terminal(progress, experiment)


class Terminal:
    """Turns what happens into bars and lines."""

    def __init__(self, progress: Progress, experiment: Experiment) -> None:
        self._progress, self._experiment = progress, experiment
        self._bars: dict[str, Any] = {}
        self._scores: dict[str, str] = {}  # by model
        self._is_new_stage = False

    def on_case(self, total: int) -> None:
        """One more case is prepared."""
        self._progress.advance(self._bar("cases", total))

    def on_warning(self, text: str) -> None:
        """Something to know about the data."""
        self._progress.console.print(f"warning: {text}", style="yellow", highlight=False, markup=False)

    def on_stage(self, text: str) -> None:
        """The next part of the work begins; the bars of the last one stay until there are new ones."""
        self._progress.console.print(text, highlight=False, markup=False)
        self._is_new_stage = True

    def on_round(self, model: str, record: dict[str, Any]) -> None:
        """A round is trained, or evaluated: the score of the last one that was stays until the next."""
        if self._is_new_stage:
            self._remove_rounds()
        if "validation_dice" in record:
            self._scores[model] = f"  validation Dice {record['validation_dice']:.3f}"
        figures = f"loss {record['training_loss']:.3f}{self._scores.get(model, '')}"
        bar = self._bar(model, self._experiment.federation.rounds)
        self._progress.update(bar, completed=record["round"], figures=figures)

    def show(self, summary: dict[str, Any], out: Path) -> None:
        """The result: scores by site, the answer in a sentence, and where the report lies."""
        console = Console()
        console.print(scores_table(summary))
        console.print(answer(out), highlight=False, markup=False)
        console.print(f"report: {out / 'report.html'}", highlight=False, markup=False, soft_wrap=True)

    def _remove_rounds(self) -> None:
        for name in [n for n in self._bars if n != "cases"]:
            self._progress.remove_task(self._bars.pop(name))
        self._scores.clear()
        self._is_new_stage = False

    def _bar(self, name: str, total: int) -> Any:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total, figures="")
        return self._bars[name]


def scores_table(summary: dict[str, Any]) -> Table:
    """Test Dice, one row a site: the table is as narrow for 20 sites as for 2."""
    models = [name for name in MODELS if summary.get(name)]
    legend = ". ".join(": ".join(MODELS[name]).capitalize() for name in models)
    table = Table(Column("test Dice", overflow="fold"), caption=f"{legend}.", caption_justify="left")
    for heading in ("patients", *(MODELS[name][0] for name in models)):
        table.add_column(heading, no_wrap=True)
    shared = summary["global"]["sites"]
    for site, scores in shared.items():
        cells = [f"{summary[name]['sites'][site]['dice']:.3f}" for name in models]
        if scores["dice_low"] is not None:
            cells[0] += f" ({scores['dice_low']:.3f} to {scores['dice_high']:.3f})"
        table.add_row(site, str(scores["n_patients"]), *cells)
    table.add_section()
    n_patients = sum(scores["n_patients"] for scores in shared.values())
    table.add_row("all cases", str(n_patients), *(f"{summary[name]['mean']['dice']:.3f}" for name in models))
    return table


def answer(run: Path) -> str:
    """Does federation pay here, as the report of a finished run says it; in signs that every terminal has."""
    from medseg_core.assessment.scores import read_cases
    from medseg_core.assessment.summary import read_summary
    from medseg_core.assessment.verdict import find_gains, judge
    from medseg_core.config import read_experiment

    summary = read_summary(run / "summary.json")
    samples = read_experiment(run / "experiment.toml").evaluation.bootstrap_samples
    verdict = judge(summary, find_gains(summary, read_cases(run / "cases.json"), samples=samples))
    return f"{verdict.answer}: {verdict.grounds}".replace("\N{MINUS SIGN}", "-")
