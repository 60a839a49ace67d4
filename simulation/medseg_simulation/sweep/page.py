"""`sweep.html`: one file that needs nothing else, made of the figures in `sweep.json`."""

from medseg_core.assessment.report_page import report_template
from medseg_simulation.sweep.pictures import draw_curves, draw_differences, draw_scores
from medseg_simulation.sweep.results import SweepResult


def render_page(result: SweepResult, *, sweep_text: str) -> str:
    """The page of a sweep; `sweep_text` is its file, as resolved."""
    drawn = {name: setting for name, setting in result.settings.items() if setting.algorithms}
    return report_template("sweep.html.j2", "medseg_simulation.sweep").render(
        result=result,
        sweep_text=sweep_text,
        scores={name: draw_scores(setting, result.reference) for name, setting in drawn.items()},
        curves={name: draw_curves(setting, result.reference) for name, setting in drawn.items()},
        differences=draw_differences(result.over_reference, result.reference)
        if result.over_reference and result.reference
        else None,
    )
