"""Learning curves of a run as one inline SVG, without scripts or links; no string of the run goes into it."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medseg_core.assessment.summary import Curves, Point, Summary

TITLES = {"validation_dice": "Validation Dice", "training_loss": "Training loss"}
NAMES = {
    "global": "Shared model",
    "server": "on the coordinator's cases",
    "local": "Each site alone (mean)",
    "pooled": "All data pooled",
}
COLOURS = {
    "global": "#0b5cad",
    "server": "#0b5cad",
    "local": "#c2570c",
    "pooled": "#5b6470",
}  # Okabe and Ito's, darkened for paper
STYLES = {"global": "-", "server": "-.", "local": "--", "pooled": ":"}  # apart without colour, too
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, GRID = "#1d2733", "#dfe4ea"
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "medseg", "font.size": 8.5, "axes.edgecolor": GRID}


def draw_learning_curves(summary: Summary) -> str:
    """Validation Dice and training loss by round, as one SVG element."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.3))
        figure.subplots_adjust(left=0.045, right=0.995, bottom=0.135, top=0.91, wspace=0.11)
        dice, loss = figure.subplots(1, 2)
        for axes, key in ((dice, "validation_dice"), (loss, "training_loss")):
            prepare(axes, TITLES[key])
            for model, lines in _lines(summary.curves_by_fold).items():
                _draw(axes, model, [_values(line, key) for line in lines])
        _draw(dice, "server", [_values(fold.shared, "server_dice") for fold in summary.curves_by_fold])
        _mark_best(dice, summary)
        _explain(dice)
        return as_svg(figure)


def draw_site_curve(dice: Mapping[int, float], tested: int | None) -> str:
    """Validation Dice of the shared model at one site, by round, as one SVG element; a ring around the tested round."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 2.9))
        figure.subplots_adjust(left=0.045, right=0.995, bottom=0.155, top=0.9)
        axes = figure.subplots()
        prepare(axes, TITLES["validation_dice"])
        _draw(axes, "global", [dict(sorted(dice.items()))])
        if len(dice) == 1:  # a line of one point shows nothing
            axes.scatter(list(dice), list(dice.values()), s=16, color=COLOURS["global"])
        if tested is not None and tested in dice:
            _ring(axes, tested, dice[tested])
        _explain(axes)
        return as_svg(figure)


def describe_learning_curves(summary: Summary) -> str:
    """What the curves show, for those who cannot see them."""
    parts = []
    for model, lines in _lines(summary.curves_by_fold).items():
        tops = [max(values.values()) for line in lines if (values := _values(line, "validation_dice"))]
        if tops:
            parts.append(f"{NAMES[model]}: highest validation Dice {np.mean(tops):.3f}")
    return "Learning curves by round. " + ("; ".join(parts) or "No validation was done") + "."


def _lines(folds: Sequence[Curves]) -> dict[str, list[list[Point]]]:
    """The curves of each model: one a fold, and for local one a site and fold."""
    return {
        "global": [fold.shared for fold in folds],
        "local": [line for fold in folds for line in (fold.local or {}).values()],
        "pooled": [fold.pooled for fold in folds if fold.pooled],
    }


def _values(line: Sequence[Point], key: str) -> dict[int, float]:
    """Round -> value, where it was measured."""
    return {p.round: value for p in line if (value := getattr(p, key)) is not None}


def prepare(axes: Axes, title: str) -> None:
    """The look of every panel: a title, a light grid, rounds in whole numbers."""
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, fontweight="bold")
    axes.set_xlabel("Round", color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw(axes: Axes, model: str, lines: Sequence[dict[int, float]]) -> None:
    """The mean over folds or sites, thick, over its members, thin."""
    members = [line for line in lines if line]
    for line in members if len(members) > 1 else []:
        axes.plot(list(line), list(line.values()), color=COLOURS[model], linewidth=0.6, alpha=0.3)
    rounds = sorted({n for line in members for n in line})
    means = [float(np.mean([line[n] for line in members if n in line])) for n in rounds]
    if rounds:
        axes.plot(rounds, means, STYLES[model], color=COLOURS[model], linewidth=1.8, label=NAMES[model])


def _mark_best(axes: Axes, summary: Summary) -> None:
    """A ring around the round that was tested; none with folds, which chose one each."""
    (best, *others) = summary.best_by_fold
    if best.validation_dice is not None and not others:
        _ring(axes, best.round, best.validation_dice)


def _ring(axes: Axes, number: int, dice: float) -> None:
    name, colour = f"Tested: round {number}", COLOURS["global"]
    axes.scatter(number, dice, s=64, facecolors="none", edgecolors=colour, zorder=3, label=name)


def _explain(axes: Axes) -> None:
    """A legend, where anything is drawn."""
    if axes.has_data():
        axes.legend(loc="lower right", handlelength=2.4, edgecolor="none", facecolor="white", framealpha=0.85)


def as_svg(figure: Figure) -> str:
    """The figure as one SVG element; equal figures give equal text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace("'DejaVu Sans'", FONT)
