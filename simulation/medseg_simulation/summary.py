"""`summary.json`: the figures of a simulation, for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from medseg_core.assessment.scores import CaseScores, by_site, mean_scores, own_site_cases, summarise
from medseg_core.config import Experiment
from medseg_server.rounds import Trained
from medseg_server.summary import best_of, cost, curve, identify, participation, site_counts
from medseg_server.suspects import suspects
from medseg_simulation.fold import FoldResult
from medseg_simulation.misbehaviour.backdoor import Attack
from medseg_simulation.misbehaviour.conduct import misconduct_of


def summarise_run(experiment: Experiment, results: Sequence[FoldResult], *, device: str) -> dict[str, Any]:
    """Everything but time and memory of this process.

    With folds, the test cases of all of them are joined; best, curves and participation are lists, one entry a fold;
    the counts of a site are those of the first fold.
    """
    models = {name: [c for r in results for c in r.cases[name]] for name in results[0].cases}
    local = own_site_cases(models)
    seed, samples = experiment.federation.seed, experiment.evaluation.bootstrap_samples
    federations = [result.trained["global"] for result in results]

    def block(cases: Sequence[CaseScores]) -> dict[str, Any] | None:
        return summarise(cases, seed=seed, samples=samples) if cases else None

    def per_fold(facts: list[Any]) -> Any:
        return facts if experiment.simulation.folds else facts[0]

    return {
        **identify(experiment, federations[0]),
        "partition": experiment.simulation.partition,
        "folds": experiment.simulation.folds,
        "device": device,
        "best": per_fold([best_of(federation) for federation in federations]),
        "sites": site_counts(federations[0]),
        "global": block(models["global"]),
        "personal": block(models.get("personal", [])),
        "pooled": block(models.get("pooled", [])),
        "local": block(local),
        "cross": {
            name: {site: {"dice": mean_scores(own)["dice"]} for site, own in by_site(cases).items()}
            for name, cases in models.items()
            if name != "personal"  # a model a site, each on its own cases alone
        },
        "curves": per_fold([_curves(result.trained) for result in results]),
        "participation": per_fold([participation(federation) for federation in federations]),
        "suspects": per_fold([suspects(federation.history) for federation in federations]),
        "faults": _faults(experiment, results),
        "cost": cost(federations),
    }


def _faults(experiment: Experiment, results: Sequence[FoldResult]) -> dict[str, Any] | None:
    """What sites were made to do wrong, and what a back door gave, over all folds; None where all behave."""
    faults = experiment.simulation.faults
    if faults is None:
        return None
    sites = misconduct_of(experiment, tuple(results[0].trained["global"].cases))
    attacks = [result.attack for result in results if result.attack is not None]
    attack = sum(attacks, Attack(0, 0, 0)) if attacks else None
    told = None
    if attack is not None:
        rates = {"success_rate": attack.n_triggered, "clean_rate": attack.n_clean}
        shares = {name: n / attack.n_voxels if attack.n_voxels else None for name, n in rates.items()}
        told = {"n_voxels": attack.n_voxels, **shares}
    return {"kind": faults.kind, "sites": sorted(sites), "attack": told}


def _curves(trained: Mapping[str, Trained]) -> dict[str, Any]:
    """Loss and validation Dice by round, of each model."""
    curves: dict[str, Any] = {"global": curve(trained["global"]), "pooled": None, "local": {}}
    for name, model in trained.items():
        if name == "pooled":
            curves["pooled"] = curve(model)
        elif name != "global":
            curves["local"][name.removeprefix("local:")] = curve(model)
    return curves | {"local": curves["local"] or None}
