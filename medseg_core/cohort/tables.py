"""A check report as tables for the terminal."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medseg_core.cohort.checks import CaseFacts, CheckReport

T = TypeVar("T")

_MOST_ROWS = 200  # of faults and of warnings on a terminal; the report holds all


def render_check(report: CheckReport) -> RenderableType:
    """What is there by site, then faults with their remedies, warnings, and one line that sums up."""
    parts: list[RenderableType] = [_sites(report.facts)] if report.facts else []
    if report.faults:
        rows = [(fault.case_id, fault.fault, fault.remedy) for fault in report.faults]
        parts.append(_table("Faults", ("case", "fault", "what to do"), rows))
    if report.warnings:
        parts.append(_table("Warnings", ("",), [(text,) for text in report.warnings]))
    return Group(*parts, Text(_summary(report)))


def _summary(report: CheckReport) -> str:
    patients = len({facts.case.patient_id for facts in report.facts})
    sites = len({facts.case.site for facts in report.facts})
    opened = f"{len(report.facts)} of {report.n_cases} cases opened: {patients} patients at {sites} site(s)."
    return f"{opened} {len(report.faults)} fault(s), {len(report.warnings)} warning(s)."


def _sites(facts: Sequence[CaseFacts]) -> Table:
    rows = []
    for site in sorted({f.case.site for f in facts}):
        ours = [f for f in facts if f.case.site == site]
        rows.append(
            (
                site or "(none)",
                str(len(ours)),
                str(len({f.case.patient_id for f in ours})),
                _sizes(ours),
                _spacings(ours),
                _intensities(ours),
                _labels(ours),
            )
        )
    columns = (
        "site",
        "cases",
        "patients",
        "size",
        "spacing [mm]",
        "intensity",
        "label: median (least to greatest)",
    )
    return _table("What is there", columns, rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Cells are plain text: what users wrote is never taken for markup."""
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows[:_MOST_ROWS]:
        table.add_row(*(Text(cell) for cell in row))
    if len(rows) > _MOST_ROWS:
        table.caption = f"and {len(rows) - _MOST_ROWS} more"
    return table


def _sizes(facts: Sequence[CaseFacts]) -> str:
    return " x ".join(_span(axis, "{:d}") for axis in _by_axis(f.geometry.shape for f in facts))


def _spacings(facts: Sequence[CaseFacts]) -> str:
    known = [f.geometry.spacing_mm for f in facts if f.geometry.spacing_mm]
    told = [" x ".join(_span(axis, "{:.3g}") for axis in _by_axis(known))] if known else []
    return "; ".join(told + (["unknown"] if len(known) < len(facts) else []))


def _intensities(facts: Sequence[CaseFacts]) -> str:
    """Least and greatest value of each channel over the cases that have it."""
    channels = _by_axis(
        [None if n in f.case.missing else span for n, span in enumerate(f.intensities)] for f in facts
    )
    there = [[span for span in channel if span is not None] for channel in channels]
    return "\n".join(
        f"{_number(min(low for low, _ in spans))} to {_number(max(high for _, high in spans))}"
        if spans
        else "missing"
        for spans in there
    )


def _labels(facts: Sequence[CaseFacts]) -> str:
    labelled = [f for f in facts if f.label_voxels is not None]
    units = {"mL" if f.geometry.spacing_mm and len(f.geometry.shape) == 3 else "px" for f in labelled}
    unit = units.pop() if len(units) == 1 else "mL or px"
    lines = []
    for name in dict.fromkeys(name for f in labelled for name in f.label_voxels or ()):
        sizes = [f.label_sizes.get(name, 0.0) for f in labelled]
        middle, least, greatest = (_number(n) for n in (float(np.median(sizes)), min(sizes), max(sizes)))
        lines.append(f"{name}: {middle} ({least} to {greatest}) {unit}")
    return "\n".join(lines) or "(none)"


def _by_axis(rows: Iterable[Sequence[T]]) -> list[list[T]]:
    """Values of each axis over all cases; cases may differ in their number of axes."""
    listed = list(rows)
    longest = max(len(row) for row in listed)
    return [[row[axis] for row in listed if axis < len(row)] for axis in range(longest)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _span(values: Sequence[int] | Sequence[float], form: str) -> str:
    least, greatest = form.format(min(values)), form.format(max(values))
    return least if least == greatest else f"{least}-{greatest}"
