"""`summary.json`: the figures of a simulation, for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

import medseg_core
from medseg_core.assessment.scores import CaseScores, by_site, mean_scores, own_site_cases, summarise
from medseg_core.config import Experiment, experiment_sha256
from medseg_server.rounds import Trained
from medseg_simulation.fold import FoldResult

SCHEMA = 1
PURPOSES = ("train", "validation", "test")


def summarise_run(
    experiment: Experiment,
    results: Sequence[FoldResult],
    *,
    n_parameters: int,
    device: str,
) -> dict[str, Any]:
    """Everything but time and memory of this process.

    With folds, the test cases of all of them are joined; best, curves and participation are lists, one entry a fold;
    the counts of a site are those of the first fold.
    """
    models = {name: [c for r in results for c in r.cases[name]] for name in results[0].cases}
    local = own_site_cases(models)
    seed, samples = experiment.federation.seed, experiment.evaluation.bootstrap_samples

    def block(cases: Sequence[CaseScores]) -> dict[str, Any] | None:
        return summarise(cases, seed=seed, samples=samples) if cases else None

    def per_fold(facts: list[Any]) -> Any:
        return facts if experiment.simulation.folds else facts[0]

    return {
        "schema": SCHEMA,
        "run": results[0].trained["global"].run,
        "version": medseg_core.__version__,
        "experiment_sha256": experiment_sha256(experiment),
        "task": experiment.task.name,
        "algorithm": experiment.federation.algorithm,
        "partition": experiment.simulation.partition,
        "seed": seed,
        "folds": experiment.simulation.folds,
        "n_parameters": n_parameters,
        "device": device,
        "best": per_fold([_best(result.trained["global"]) for result in results]),
        "sites": _site_counts(results[0].trained["global"]),
        "global": block(models["global"]),
        "pooled": block(models.get("pooled", [])),
        "local": block(local),
        "cross": {
            name: {site: {"dice": mean_scores(own)["dice"]} for site, own in by_site(cases).items()}
            for name, cases in models.items()
        },
        "curves": per_fold([_curves(result.trained) for result in results]),
        "participation": per_fold([_participation(result.trained["global"]) for result in results]),
        "cost": _cost(results),
    }


def _best(trained: Trained) -> dict[str, Any]:
    """The chosen round and why."""
    return {"round": trained.best_round, "validation_dice": trained.best_dice}


def _site_counts(trained: Trained) -> dict[str, dict[str, dict[str, int]]]:
    """Patients and cases of each site by purpose, as the sites described them."""
    return {
        site: {kind: {p: counts[f"{p}_{kind}"] for p in PURPOSES} for kind in ("patients", "cases")}
        for site, counts in trained.cases.items()
    }


def _curves(trained: Mapping[str, Trained]) -> dict[str, Any]:
    """Loss and validation Dice by round, of each model."""
    curves: dict[str, Any] = {"global": _curve(trained["global"]), "pooled": None, "local": {}}
    for name, model in trained.items():
        if name == "pooled":
            curves["pooled"] = _curve(model)
        elif name != "global":
            curves["local"][name.removeprefix("local:")] = _curve(model)
    return curves | {"local": curves["local"] or None}


def _curve(trained: Trained) -> list[dict[str, Any]]:
    return [
        {
            "round": record["round"],
            "training_loss": record["training_loss"],
            "validation_dice": record.get("validation_dice"),
            "sites": record.get("sites", {}),
        }
        for record in trained.history
    ]


def _participation(trained: Trained) -> list[dict[str, Any]]:
    """Who contributed to each round, and who did not and why."""
    kept = ("cases", "seconds", "bytes_up", "bytes_down")
    return [
        {
            "round": record["round"],
            "contributed": {s: {k: c[k] for k in kept} for s, c in record["contributed"].items()},
            "absent": record["absent"],
        }
        for record in trained.history
    ]


def _cost(results: Sequence[FoldResult]) -> dict[str, float]:
    """What the federation trained and sent, all folds together."""
    records = [record for result in results for record in result.trained["global"].history]
    contributions = [c for record in records for c in record["contributed"].values()]
    evaluations = [record["evaluation"] for record in records if "evaluation" in record]
    return {
        "training_s": sum(c["training_s"] for c in contributions),
        "bytes_down": sum(c["bytes_down"] for c in [*contributions, *evaluations]),
        "bytes_up": sum(c["bytes_up"] for c in [*contributions, *evaluations]),
    }
