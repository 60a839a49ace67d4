"""Folders of trained models with the smallest networks, for tests of what becomes of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builders import make_experiment

from medseg_core.config import Experiment, experiment_sha256
from medseg_core.learning.model_package import write_model
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import Weights, get_weights

SCORES = {
    "dice": 0.8,
    "iou": 0.7,
    "hd95_mm": None,
    "hd95_px": 2.5,
    "surface_dice": 0.9,
    "precision": 0.8,
    "recall": 0.8,
    "specificity": 0.99,
    "volume_error": -0.1,
}


def make_summary(experiment: Experiment, **changes: Any) -> dict[str, Any]:
    """What `summary.json` of a run of two sites says."""
    sites = {"north": 0.85, "south": 0.75}
    counted = {"train": 6, "validation": 1, "test": 3}
    interval = {"dice_low": 0.7, "dice_high": 0.9, "n_cases": 3, "n_patients": 3, "n_empty": 0}
    document = {
        "run": "trial",
        "version": "0.1.0",
        "experiment_sha256": experiment_sha256(experiment),
        "partition": "natural",
        "seed": 0,
        "folds": None,
        "n_parameters": 1234,
        "best": {"round": 2, "validation_dice": 0.77},
        "sites": {site: {"patients": counted, "cases": counted} for site in sites},
        "global": {
            "mean": SCORES,
            "site_mean": SCORES,
            "worst_site": {"site": "south", "dice": 0.75},
            "labels": dict.fromkeys(experiment.task.labels, SCORES),
            "sites": {site: {**SCORES, "dice": dice, **interval} for site, dice in sites.items()},
        },
        "pooled": None,
        "local": None,
    }
    return document | changes


def initial_weights(experiment: Experiment, seed: int = 0) -> Weights:
    """Weights of the experiment's network before any training."""
    return get_weights(build_network(experiment.task, experiment.model, seed=seed))


def write_trained(folder: Path, *, seed: int = 0, **sections: Mapping[str, Any]) -> Experiment:
    """Write a model whose weights are the seed's initial ones; `sections` are as in `make_experiment`."""
    experiment = make_experiment(**sections)
    write_model(folder, experiment, initial_weights(experiment, seed), make_summary(experiment))
    return experiment
