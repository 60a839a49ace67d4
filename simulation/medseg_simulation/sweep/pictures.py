"""Pictures of a sweep as inline SVG, without scripts or links."""

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medseg_core.assessment.report_curves import COLOURS, GRID, INK, STYLE, STYLES, as_svg, prepare
from medseg_simulation.sweep.results import Curve, Difference, SettingResult

OURS, THEIRS = COLOURS["global"], COLOURS["pooled"]
BASELINES = {"pooled": "all data pooled", "local": "each site alone"}
COLUMNS, WIDTH, ROW = 4, 10.4, 0.27  # of small panels; inches


def draw_scores(setting: SettingResult, reference: str | None) -> str:
    """Test Dice of each algorithm, best first: a dot for the mean, small ones for the seeds, lines for baselines."""
    rows = sorted(setting.algorithms.items(), key=lambda item: item[1].dice.mean)
    with mpl.rc_context(STYLE):
        axes = _lying(len(rows), "Test Dice, mean over cases")
        for place, (_, row) in enumerate(rows):
            seeds = list(row.dice.seeds.values())
            if len(seeds) > 1:
                axes.scatter(seeds, [place] * len(seeds), s=14, color=OURS, alpha=0.4, linewidths=0)
            axes.scatter([row.dice.mean], [place], s=44, color=OURS, zorder=3)
        for name, told in BASELINES.items():
            if name in setting.baselines:
                mean = setting.baselines[name].dice.mean
                axes.axvline(mean, color=COLOURS[name], linestyle=STYLES[name], linewidth=1.4, label=told)
        _name_rows(axes, [name for name, _ in rows], reference)
        if setting.baselines:
            axes.legend(
                loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0, edgecolor="none"
            )
        return as_svg(axes.figure)  # type: ignore[arg-type]


def draw_differences(differences: Mapping[str, Difference], reference: str) -> str:
    """Difference to the reference over all settings; thick: the 95 % interval, thin: the one that decides."""
    rows = sorted(differences.items(), key=lambda item: item[1].dice)
    colours = {"better": OURS, "worse": COLOURS["local"], "no difference found": THEIRS}
    with mpl.rc_context(STYLE):
        axes = _lying(len(rows), f"Difference in test Dice to {reference}, over all settings and seeds")
        axes.axvline(0, color=INK, linewidth=1)
        for place, (_, found) in enumerate(rows):
            colour = colours[found.verdict]
            for low, high, width in (
                (found.decided_low, found.decided_high, 1.0),
                (found.low, found.high, 3.5),
            ):
                if low is not None and high is not None:
                    axes.hlines(place, low, high, color=colour, linewidth=width)
            axes.scatter([found.dice], [place], s=44, color=colour, zorder=3)
        _name_rows(axes, [name for name, _ in rows], None)
        return as_svg(axes.figure)  # type: ignore[arg-type]


def draw_curves(setting: SettingResult, reference: str | None) -> str:
    """Validation Dice by round, a panel for each algorithm, with the reference and the pooled model behind."""
    curves = {name: row.curve for name, row in setting.algorithms.items()}
    pooled = setting.baselines["pooled"].curve if "pooled" in setting.baselines else None
    n_rows = math.ceil(len(curves) / COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.1 * n_rows + 0.3))
        panels = figure.subplots(n_rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel().tolist()
        figure.subplots_adjust(
            left=0.045,
            right=0.995,
            bottom=0.42 / (2.1 * n_rows + 0.3),
            top=1 - 0.25 / (2.1 * n_rows + 0.3),
            wspace=0.08,
            hspace=0.28,
        )
        for axes, (name, curve) in zip(panels, curves.items(), strict=False):
            prepare(axes, name)
            axes.set_xlabel("")
            _line(axes, pooled, THEIRS, STYLES["pooled"], "all data pooled")
            if reference in curves and name != reference:
                _line(axes, curves[reference], THEIRS, "-", reference)
            _line(axes, curve, OURS, "-", None)
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        for axes in panels[max(0, len(curves) - COLUMNS) : len(curves)]:
            axes.set_xlabel("Round", color=INK)
            axes.tick_params(labelbottom=True)
        _explain(panels[: len(curves)])
        return as_svg(figure)


def _lying(n_rows: int, title: str) -> Axes:
    """One panel with a row for each algorithm."""
    height = ROW * max(n_rows, 2) + 0.75
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(left=0.16, right=0.985, bottom=0.3 / height, top=1 - 0.32 / height)
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, fontweight="bold")
    axes.grid(color=GRID, linewidth=0.6, axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_ylim(-0.6, max(n_rows, 2) - 0.4)
    return axes


def _name_rows(axes: Axes, names: Sequence[str], reference: str | None) -> None:
    axes.set_yticks(range(len(names)), names)
    for name, label in zip(names, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if name == reference else "normal")


def _line(axes: Axes, curve: Curve | None, colour: str, style: str, label: str | None) -> None:
    if curve is not None and curve.rounds:
        axes.plot(
            curve.rounds,
            curve.validation_dice,
            style,
            color=colour,
            linewidth=1.8 if label is None else 1.1,
            label=label,
        )
        if len(curve.rounds) == 1:  # a line of one point shows nothing
            axes.scatter(curve.rounds, curve.validation_dice, s=14, color=colour)


def _explain(panels: Sequence[Axes]) -> None:
    """A legend in the panel that has the most to explain."""
    fullest = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]), default=None)
    if fullest is not None and fullest.get_legend_handles_labels()[1]:
        fullest.legend(loc="lower right", fontsize=7.5, edgecolor="none", facecolor="white", framealpha=0.85)
