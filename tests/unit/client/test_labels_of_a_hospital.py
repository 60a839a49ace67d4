"""What site.toml says of label files: kept as written, held against the task, obeyed in training, check and scores."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from builders import make_experiment
from trained_model import write_trained

from medseg_client.machine_check import check_data
from medseg_client.site_data import open_site_data
from medseg_client.site_folder import SiteFolder, SiteSettings
from medseg_core.commands.evaluate import score_data
from medseg_core.config import parse_document
from medseg_core.errors import ExperimentFileError, FaultyCasesError
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

TASK = {"labels": {"liver": 50, "tumour": 2}}  # the files call the organ 1
EXPERIMENT = make_experiment(task=TASK)
HERE = {"squares": {"labels": {"liver": 1}, "not_annotated": ["tumour"]}}


def settings_of(labels: dict[str, Any] = HERE) -> SiteSettings:
    return SiteSettings.model_validate(
        {"name": "north", "data": "images", "egress_port": 1, "node_port": 2, "labels": labels}
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = PhantomSettings(sites=1, cases=4, spatial_dims=2, voxel_mm=4.0)
    return write_phantoms(tmp_path_factory.mktemp("hospital") / "images", settings)


def test_they_survive_site_toml() -> None:
    text = settings_of(HERE | {"a.b": {"labels": {"x": [1, 2], "y": "nonzero"}, "background": [7]}}).to_toml()
    read = parse_document(SiteSettings, tomllib.loads(text), source="site.toml")
    assert read.labels["squares"] == settings_of().labels["squares"]
    assert read.labels["a.b"].labels == {"x": (1, 2), "y": "nonzero"}


def test_a_task_of_which_nothing_is_said_stays_as_it_is() -> None:
    other = EXPERIMENT.task.model_copy(update={"name": "other"})
    assert settings_of().task_here(other) == other


def test_labels_that_do_not_fit_the_task_are_a_sentence() -> None:
    with pytest.raises(
        ExperimentFileError, match=re.escape("[labels.squares] task squares has no label 'lung'")
    ):
        settings_of({"squares": {"labels": {"lung": 1}}}).task_here(EXPERIMENT.task)


def test_a_hospital_trains_on_its_own_values(images: Path, tmp_path: Path) -> None:
    def opened(labels: dict[str, Any]) -> Any:
        return open_site_data(
            images,
            EXPERIMENT,
            site="north",
            cache=tmp_path,
            on_warning=lambda text: None,
            task=settings_of(labels).task_here(EXPERIMENT.task),
        )

    with pytest.raises(FaultyCasesError, match="unknown value"):
        opened({})
    data = opened(HERE)
    assert all(set(case.foreground[:, 0]) == {1} for case in data.train)
    assert {case.not_annotated for case in (*data.train, *data.validation, *data.test)} == {(2,)}


def test_the_check_holds_files_to_what_site_toml_says(images: Path) -> None:
    def findings(labels: dict[str, Any]) -> list[Any]:
        root = images.parent
        (root / "site.toml").write_text(settings_of(labels).to_toml())
        return list(check_data(SiteFolder(root), [EXPERIMENT]))

    (wrong,), (right,), (misnamed,) = (
        findings(labels) for labels in ({}, HERE, {"squares": {"background": [50]}})
    )
    assert (wrong.state, right.state, misnamed.state) == ("fault", "ok", "fault")
    assert "UnknownLabel" in wrong.text
    assert misnamed.remedy == "Correct labels in site.toml."


def test_a_model_is_scored_on_what_the_hospital_annotates(images: Path, tmp_path: Path) -> None:
    write_trained(tmp_path / "model", task=TASK)
    score_data(
        tmp_path / "model",
        images,
        tmp_path / "scores.json",
        device="cpu",
        task_of=lambda experiment, case: settings_of().task_here(experiment.task),
    )
    found = json.loads((tmp_path / "scores.json").read_text())
    assert list(found["labels"]) == ["liver"]
    assert all(list(case["labels"]) == ["liver"] for case in found["cases"])
