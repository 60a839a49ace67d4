"""A run folder as a finished run leaves it: drawn masks, real scores, plausible curves."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from builders import make_facts
from scipy import ndimage

from medseg_core.assessment.evaluation import site_figures
from medseg_core.assessment.metrics import score_case
from medseg_core.assessment.released import pool_figures
from medseg_core.assessment.scores import (
    CaseScores,
    by_site,
    mean_scores,
    read_cases,
    summarise,
    write_cases,
)
from medseg_core.config import Experiment, experiment_sha256, experiment_toml, parse_experiment

QUALITY = {"global": 1.2, "pooled": 1.0, "own": 2.2, "foreign": 3.5}  # wobble of the outline in pixels


def make_experiment(labels: int = 2, dims: int = 3, folds: int | None = None) -> Experiment:
    names = ["anterior", "posterior", "tail", "stem"][:labels]
    return parse_experiment(
        {
            "task": {
                "name": "hippocampus",
                "spatial_dims": dims,
                "channels": [{"name": "T1", "modality": "MR"}],
                "labels": {name: n for n, name in enumerate(names, start=1)},
            },
            "training": {"patch_size": [32] * dims},
            "federation": {"rounds": 16},
            "evaluation": {"bootstrap_samples": 500},
            "simulation": {"partition": "quantity", "baselines": ["local", "pooled"]}
            | ({"folds": folds} if folds else {}),
        },
        source="fake",
    )


def write_run(
    folder: Path,
    *,
    sites: tuple[str, ...] = ("Aarhus", "Basel", "Cork", "Delft"),
    baselines: bool = True,
    labels: int = 2,
    dims: int = 3,
    folds: int | None = None,
    overlays: bool = True,
    cases: int = 6,
) -> dict[str, Any]:
    """Write experiment.toml, summary.json, cases.json and overlays; returns the summary.

    The first site has `cases` test cases, two a patient; each further one two less, down to one patient.
    """
    rng = np.random.default_rng(4)
    experiment = make_experiment(labels, dims, folds)
    names = ["global", *(["pooled", *(f"local:{site}" for site in sites)] if baselines else [])]
    models: dict[str, list[CaseScores]] = {name: [] for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    for number, site in enumerate(sites):
        drawn = {}
        for n in range(max(2, cases - 2 * number)):
            case = (f"{site[:3]}{number}_{n:03d}".replace("/", "-"), f"P{number}{n // 2}", site)
            truth = _truth(rng, labels)
            for name in names:
                predicted = _redrawn(truth, _quality(name, site), rng)
                models[name].append(_scored(case, predicted, truth, experiment))
                if name == "global":
                    drawn[case[0]] = (models[name][-1].dice, truth, predicted)
        ranked = sorted(drawn, key=lambda case_id: -drawn[case_id][0])
        for case_id in {ranked[0], ranked[len(ranked) // 2], ranked[-1]} if overlays else ():
            _write_overlay(folder / "overlays" / f"{case_id}.npz", *drawn[case_id][1:], rng)
    summary = _summary(experiment, models, sites, rng)
    (folder / "experiment.toml").write_text(experiment_toml(experiment), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    write_cases(folder / "cases.json", models)
    return summary


def write_federated_run(
    folder: Path, *, sites: tuple[str, ...] = ("Aarhus", "Basel", "Cork")
) -> dict[str, Any]:
    """The same as a run across hospitals leaves it: no cases, no overlays, no other models; the last site untested."""
    summary = write_run(folder, sites=sites, baselines=False, overlays=False)
    experiment = make_experiment()
    cases = by_site(read_cases(folder / "cases.json")["global"])
    (folder / "cases.json").unlink()
    told = {site: site_figures(own, experiment) for site, own in cases.items() if site != sites[-1]}
    for name in ("partition", "device", "cross", "folds"):
        del summary[name]
    del summary["cost"]["peak_rss_mb"]
    summary["global"] = pool_figures(told, tuple(experiment.task.labels))
    summary["untested"] = {sites[-1]: "too_few_patients"}
    summary["facts"] = {
        sites[0]: make_facts().model_dump(mode="json")
    }  # the others are of an earlier release
    for number, reason in ((6, "not_connected"), (7, "norm_exceeded")):
        summary["participation"][number - 1]["absent"] = {sites[-1]: reason}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return summary


def _quality(name: str, site: str) -> float:
    if name.startswith("local:"):
        return QUALITY["own" if name == f"local:{site}" else "foreign"]
    return QUALITY[name]


def _truth(rng: np.random.Generator, labels: int) -> npt.NDArray[np.uint8]:
    """A smooth blob of (i, j), cut into bands of labels along i."""
    i, j = np.indices((52, 40))
    centre, radii = rng.normal((26, 20), 2), rng.normal((15, 9), 1.5)
    angle = np.arctan2(j - centre[1], i - centre[0])
    bump = 1 + 0.15 * np.sin(3 * angle + rng.uniform(0, 6))
    inside = ((i - centre[0]) / radii[0]) ** 2 + ((j - centre[1]) / radii[1]) ** 2 < bump
    bands = np.clip((i - centre[0] + radii[0]) / (2 * radii[0]) * labels, 0, labels - 1e-6)
    return (inside * (1 + bands.astype(np.uint8))).astype(np.uint8)


def _redrawn(truth: npt.NDArray[np.uint8], wobble: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The truth displaced by a smooth random field of about `wobble` pixels."""
    field = ndimage.gaussian_filter(rng.normal(size=(2, *truth.shape)), (0, 5, 5))
    shift = field / field.std() * wobble * rng.uniform(0.5, 1.3)
    return ndimage.map_coordinates(truth, np.indices(truth.shape) + shift, order=0).astype(np.uint8)


def _scored(
    case: tuple[str, str, str],
    predicted: npt.NDArray[np.uint8],
    truth: npt.NDArray[np.uint8],
    experiment: Experiment,
) -> CaseScores:
    spacing = (1.0, 1.0) if experiment.task.spatial_dims == 3 else None
    labels = tuple(experiment.task.labels)
    return CaseScores(*case, score_case(predicted, truth, labels=labels, spacing_mm=spacing))


def _write_overlay(
    path: Path, truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], rng: np.random.Generator
) -> None:
    texture = ndimage.gaussian_filter(rng.normal(size=truth.shape), 1.5)
    grey = 110 + 260 * texture + 45 * ndimage.gaussian_filter((truth > 0).astype(float), 1.5)
    image = np.clip(grey, 0, 255).astype(np.uint8)
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=image, truth=truth, prediction=predicted, aspect=np.float64(1.0))
    path.write_bytes(buffer.getvalue())


def _summary(
    experiment: Experiment,
    models: dict[str, list[CaseScores]],
    sites: tuple[str, ...],
    rng: np.random.Generator,
) -> dict[str, Any]:
    own = [case for name, cases in models.items() for case in cases if name == f"local:{case.site}"]
    blocks = {"global": models["global"], "pooled": models.get("pooled"), "local": own}
    folds = experiment.simulation.folds
    counts = {
        site: {kind: {"train": 30 - 4 * n, "validation": 5, "test": 8} for kind in ("patients", "cases")}
        for n, site in enumerate(sites)
    }

    def per_fold(make: Any) -> Any:
        return [make() for _ in range(folds)] if folds else make()

    return {
        "schema": 1,
        "run": "hippocampus-quantity",
        "version": "0.1.0",
        "experiment_sha256": experiment_sha256(experiment),
        "task": experiment.task.name,
        "algorithm": "fedavg",
        "partition": "quantity",
        "seed": 0,
        "folds": folds,
        "n_parameters": 1_194_321,
        "device": "cpu",
        "best": per_fold(lambda: {"round": 14, "validation_dice": 0.861}),
        "sites": counts,
        **{name: summarise(cases, seed=0, samples=500) if cases else None for name, cases in blocks.items()},
        "cross": {
            name: {site: {"dice": mean_scores(at)["dice"]} for site, at in by_site(cases).items()}
            for name, cases in models.items()
        },
        "curves": per_fold(lambda: _curves(sites, rng, baselines="pooled" in models)),
        "participation": per_fold(lambda: _participation(sites, rng)),
        "cost": {
            "wall_s": 402.7,
            "training_s": 131.2,
            "bytes_down": 305_746_176,
            "bytes_up": 305_612_288,
            "peak_rss_mb": 1420.5,
        },
    }


def _curves(sites: tuple[str, ...], rng: np.random.Generator, *, baselines: bool) -> dict[str, Any]:
    return {
        "global": _curve(0.86, sites, rng),
        "pooled": _curve(0.87, (), rng) if baselines else None,
        "local": {site: _curve(0.82, (site,), rng) for site in sites} if baselines else {},
    }


def _curve(reached: float, sites: tuple[str, ...], rng: np.random.Generator) -> list[dict[str, Any]]:
    points = []
    for n in range(17):
        dice = max(0.0, reached * (1 - 0.9 * np.exp(-n / 3)) + rng.normal(0, 0.006))
        points.append(
            {
                "round": n,
                "training_loss": None if n == 0 else float(1.4 * np.exp(-n / 5) + 0.25 + rng.normal(0, 0.01)),
                "validation_dice": float(dice) if n % 2 == 0 else None,
                "sites": {site: float(dice + rng.normal(0, 0.02)) for site in sites} if n % 2 == 0 else {},
            }
        )
    return points


def _participation(sites: tuple[str, ...], rng: np.random.Generator) -> list[dict[str, Any]]:
    rounds = []
    for n in range(1, 17):
        absent = {sites[-1]: "deadline passed"} if n in (6, 7) and len(sites) > 1 else {}
        contributed = {
            site: {
                "cases": 30 - k,
                "seconds": float(8 - k % 5 + rng.uniform()),
                "bytes_up": 4_777_284,
                "bytes_down": 4_777_284,
            }
            for k, site in enumerate(sites)
            if site not in absent
        }
        rounds.append({"round": n, "contributed": contributed, "absent": absent})
    return rounds
