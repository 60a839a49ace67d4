"""A whole simulation of hospitals that differ in labels and scanners, with baselines, down to its report."""

from pathlib import Path

import pytest
import torch
from builders import make_experiment

from medseg_core.assessment.scores import CaseScores, read_cases
from medseg_core.assessment.summary import Summary, read_summary
from medseg_simulation.fold import Compute
from medseg_simulation.phantoms import PhantomSettings, write_phantoms
from medseg_simulation.simulate import Place, simulate


class Silence:
    """Nobody watches."""

    def on_case(self, total: int) -> None: ...
    def on_warning(self, text: str) -> None: ...
    def on_stage(self, text: str) -> None: ...
    def on_round(self, model: str, record: object) -> None: ...


def run(folder: Path, *, score_all_labels: bool) -> tuple[Summary, dict[str, list[CaseScores]]]:
    """Summary and scores of a run in which one hospital of two annotates the organ alone."""
    settings = PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0)
    data = write_phantoms(folder / "phantoms", settings)
    experiment = make_experiment(
        task={"labels": {"organ": 1, "lesion": 2}},
        federation={"rounds": 1},
        simulation={
            "baselines": ["local", "pooled"],
            "scanner": {"strength": 0.5},
            "site": {"hospital-1": {"not_annotated": ["lesion"]}},
            "score_all_labels": score_all_labels,
        },
    )
    place = Place(data, folder / "run", folder / "cache", Compute(torch.device("cpu"), 1))
    simulate(experiment, place, Silence())
    return read_summary(folder / "run" / "summary.json"), read_cases(folder / "run" / "cases.json")


@pytest.mark.parametrize("score_all_labels", [False, True])
def test_every_model_is_scored_on_the_same_labels(tmp_path: Path, *, score_all_labels: bool) -> None:
    summary, models = run(tmp_path, score_all_labels=score_all_labels)

    known = {"hospital-1": ["organ"], "hospital-2": ["organ", "lesion"]}
    expected = {site: ["organ", "lesion"] if score_all_labels else labels for site, labels in known.items()}
    assert set(models) == {"global", "pooled", "local:hospital-1", "local:hospital-2"}
    for cases in models.values():
        assert {case.site: list(case.labels) for case in cases} == expected
    assert list(summary.shared.labels) == ["organ", "lesion"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
