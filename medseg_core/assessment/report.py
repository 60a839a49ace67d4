"""The report of a run: one HTML file that needs nothing else, for people who decide.

In: `experiment.toml`, `summary.json`, and of a simulation `cases.json`, `overlays/*.npz` of a run folder. Out:
`report.html` beside them. It holds no script and asks nothing from the network (its own content policy forbids
both); every string of the run is escaped.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg_core.assessment.report_conduct import build_conduct
from medseg_core.assessment.report_curves import describe_learning_curves, draw_learning_curves
from medseg_core.assessment.report_forest import build_forest
from medseg_core.assessment.report_page import report_template
from medseg_core.assessment.report_pictures import find_pictures
from medseg_core.assessment.report_tables import (
    build_matrix,
    build_participation,
    find_worst_cases,
    list_absences,
    list_rounds,
)
from medseg_core.assessment.scores import CaseScores, read_cases
from medseg_core.assessment.summary import Summary, read_summary
from medseg_core.assessment.verdict import find_gains, judge
from medseg_core.config import Experiment, read_experiment
from medseg_core.errors import UnreadableRunError
from medseg_core.files import write_atomic


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Missing or damaged overlays are left out. Raises UnreadableRunError or ExperimentFileError for the other files,
    UnusableFolderError if the report cannot be written.
    """
    summary = read_summary(run_folder / "summary.json")
    models = _cases(run_folder / "cases.json") if summary.is_simulated else {}
    experiment = read_experiment(run_folder / "experiment.toml")
    html = report_template("report.html.j2").render(
        **_scores(summary, models, samples=experiment.evaluation.bootstrap_samples),
        **_course(summary),
        **_asked(experiment, run_folder),
        pictures=find_pictures(models.get("global", ()), run_folder / "overlays"),
    )
    path = run_folder / "report.html"
    write_atomic(path, html.encode())
    return path


def _cases(path: Path) -> dict[str, list[CaseScores]]:
    """The scores of single cases, of the shared model at least. Raises UnreadableRunError."""
    models = read_cases(path)
    if not models.get("global"):
        raise UnreadableRunError(path, "no cases of the global model")
    return models


def _scores(summary: Summary, models: Mapping[str, Sequence[CaseScores]], *, samples: int) -> dict[str, Any]:
    """What the models reached."""
    gains = find_gains(summary, models, samples=samples)
    return {
        "summary": summary,
        "gains": gains,
        "verdict": judge(summary, gains),
        "forest": build_forest(summary, models, gains, samples=samples),
        "matrix": build_matrix(summary),
        "worst_cases": find_worst_cases(models),
        "unit": "mm" if summary.shared.mean.hd95_mm is not None else "px",
    }


def _course(summary: Summary) -> dict[str, Any]:
    """How training went and what it took."""
    return {
        "curves": draw_learning_curves(summary),
        "curves_text": describe_learning_curves(summary),
        "participation": build_participation(summary),
        "rounds": list_rounds(summary),
        "absences": list_absences(summary),
        "conduct": build_conduct(summary),
    }


def _asked(experiment: Experiment, run_folder: Path) -> dict[str, Any]:
    """What the run was asked to do."""
    return {
        "experiment": experiment,
        "experiment_text": (run_folder / "experiment.toml").read_text(encoding="utf-8"),
    }
