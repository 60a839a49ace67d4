"""A trained model on labelled cases: every case scored on the grid of its files, and the file of the scores."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medseg_core.assessment.evaluation import score_prediction
from medseg_core.assessment.scores import CaseScores, summarise
from medseg_core.assessment.summary import Scores, SiteScores
from medseg_core.cohort.preprocess import preprocess
from medseg_core.cohort.reading import Reading
from medseg_core.config import Section, Task
from medseg_core.errors import DataError, FaultyCasesError
from medseg_core.learning.file_prediction import segment_prepared
from medseg_core.learning.model_package import LoadedModel
from medseg_core.types import Case

SCHEMA_FILE = Path(__file__).with_name("evaluation.schema.json")
NO_SITE = "(none)"  # stands for cases without a site; manifests cannot name one so


class ModelIdentity(Section):
    """Which model was scored."""

    task: str
    run: str
    version: str
    weights_sha256: str


class CaseLabelScores(Scores):
    """Scores of one label of one case."""

    n_empty: int  # 1 where exactly one of prediction and truth holds the label


class CaseEntry(Section):
    """Scores of one case."""

    case_id: str
    patient_id: str
    site: str
    mean: Scores  # over labels
    labels: dict[str, CaseLabelScores]


class Evaluation(Section):
    """What `evaluate` writes."""

    version_of_schema: Literal[1] = Field(default=1, alias="schema")
    notice: str = "Research use only, not a medical device."
    model: ModelIdentity
    n_cases: int
    n_patients: int
    mean: Scores  # over cases
    labels: dict[str, Scores]
    sites: dict[str, SiteScores]  # NO_SITE: cases without one
    cases: list[CaseEntry]


def evaluate_cases(
    model: LoadedModel,
    cases: Sequence[Case],
    *,
    task_of: Callable[[Case], Task] | None = None,
    on_case: Callable[[], None] = lambda: None,
) -> list[CaseScores]:
    """Scores of each case on the grid of its files. Raises FaultyCasesError with every fault.

    `task_of` gives the model's task in the values of a case's label file, where they differ.
    """
    scores: list[CaseScores] = []
    faults: list[DataError] = []
    for case in cases:
        reading = Reading(task_of(case) if task_of else model.experiment.task)
        try:
            loaded = reading.load(case)
            if not faults:  # a fault ends in an error: after one, the rest is only checked
                assert loaded.label is not None
                prepared = replace(preprocess(loaded, reading.task), reading=reading)
                prediction = segment_prepared(model, prepared)
                scores.append(score_prediction(prepared, prediction, loaded.label, model.experiment))
        except DataError as fault:
            faults.append(fault)
        on_case()
    if faults:
        raise FaultyCasesError(faults, len(cases))
    return scores


def summarise_evaluation(model: LoadedModel, cases: Sequence[CaseScores]) -> Evaluation:
    """Means over cases, labels and sites of at least one case."""
    experiment = model.experiment
    block = summarise(cases, seed=experiment.federation.seed, samples=experiment.evaluation.bootstrap_samples)
    entries = [case.to_json() for case in cases]
    return Evaluation.model_validate(
        {
            "schema": 1,
            "model": model.identity,
            "n_cases": len(cases),
            "n_patients": len({(case.site, case.patient_id) for case in cases}),
            "mean": block["mean"],
            "labels": block["labels"],
            "sites": {site or NO_SITE: scores for site, scores in block["sites"].items()},
            "cases": [entry | {"site": entry["site"] or NO_SITE} for entry in entries],
        }
    )


def evaluation_schema() -> dict[str, Any]:
    """JSON schema of what `evaluate` writes, as stored in SCHEMA_FILE for programs that read it."""
    return Evaluation.model_json_schema(by_alias=True) | {
        "$schema": "https://json-schema.org/draft/2020-12/schema"
    }
