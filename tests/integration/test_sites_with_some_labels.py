"""Hospitals that annotate one label each train one model of both, and are scored on what they know."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from builders import (
    initial_weights,
    make_experiment,
    make_federation,
    make_request,
    make_site_data,
    make_trainer,
    opened,
)

from medseg_client.site_data import SiteData
from medseg_core.assessment.summary import read_summary
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.cohort.reading import Reading
from medseg_core.config import SiteLabels
from medseg_core.federation.codec import decode_tensors
from medseg_core.federation.update import spec_of
from medseg_server.conduct import conduct

EXPERIMENT = make_experiment(
    task={"labels": {"square": 1, "circle": 2}}, federation={"rounds": 2}, training={"optimiser": "sgd"}
)


def knowing(label: str, data: SiteData) -> SiteData:
    """The cases, whose squares are called `label` and in which the other label is not annotated."""
    task = EXPERIMENT.task
    (other,) = set(task.labels) - {label}
    reading = Reading(task.at_site(SiteLabels(not_annotated=(other,))))
    value = list(task.labels).index(label) + 1

    def changed(case: PreprocessedCase) -> PreprocessedCase:
        return replace(case, label=(case.label * value).astype(np.uint8), reading=reading)

    parts = (data.train, data.validation, data.test)
    return SiteData(*(tuple(changed(case) for case in part) for part in parts))


DATA = {
    "north": knowing("square", make_site_data("north")),
    "south": knowing("circle", make_site_data("south")),
}


def test_a_run_ends_with_scores_of_each_label_from_the_site_that_knows_it(tmp_path: Path) -> None:
    run = make_federation(tmp_path, EXPERIMENT, DATA)
    conduct(run)

    found = read_summary(run.store.folder / "summary.json").shared

    assert list(found.labels) == ["square", "circle"]
    assert found.labels["square"].dice == found.sites["north"].dice
    assert found.labels["circle"].dice == found.sites["south"].dice


def test_a_site_teaches_nothing_of_how_background_and_its_unknown_label_differ(tmp_path: Path) -> None:
    """Its update moves the biases of both in proportion to their probability, so here alike."""
    experiment = EXPERIMENT.model_copy(
        update={"training": EXPERIMENT.training.model_copy(update={"momentum": 0.0, "weight_decay": 0.0})}
    )
    weights = initial_weights(experiment)
    last = [name for name, array in weights.items() if name.endswith("bias") and array.shape == (3,)]
    start = {name: np.zeros_like(array) for name, array in weights.items()}  # all classes equally likely
    trainer = make_trainer(tmp_path, experiment, DATA["north"])

    reply = opened(trainer.handle(make_request(experiment, weights=start)))

    update = decode_tensors(reply.payload, spec_of(weights, frozenset(weights)))
    bias = update[last[-1]]
    assert abs(bias[0] - bias[2]) < 1e-6
    assert abs(bias[1] - bias[0]) > 1e-4
