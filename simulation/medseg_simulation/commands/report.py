"""`medseg-simulate report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from medseg_simulation.commands.options import takes


@dataclass(frozen=True)
class ReportOptions:
    """Which run."""

    run: Annotated[Path, typer.Argument(help="Folder of a finished run: what --out named.")]


@takes(ReportOptions)
def report(options: ReportOptions) -> None:
    """Write report.html of a finished run again, from the scores and pictures in its folder."""
    from medseg_core.assessment.report import write_report  # matplotlib: only when needed

    typer.echo(f"report: {write_report(options.run)}")
