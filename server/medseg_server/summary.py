"""`summary.json`: what a run's records say, for programs. The simulation adds what only it knows."""

from collections.abc import Sequence
from typing import Any

import medseg_core
from medseg_core.assessment.released import pool_figures
from medseg_core.config import Experiment, experiment_sha256
from medseg_server.evaluating import Tested
from medseg_server.rounds import Trained, model_spec
from medseg_server.run import Record, Run
from medseg_server.run_sites import facts_in
from medseg_server.suspects import suspects

SCHEMA = 1
PURPOSES = ("train", "validation", "test")


def summarise_federation(run: Run, trained: Trained, tested: Tested) -> dict[str, Any]:
    """The summary of a run across hospitals, from its records and what the sites released."""
    labels = tuple(run.experiment.task.labels)
    return {
        **identify(run.experiment, trained),
        "best": best_of(trained),
        "sites": site_counts(trained),
        "global": pool_figures(tested.figures, labels),
        "personal": pool_figures(tested.personal, labels) if tested.personal else None,
        "pooled": None,
        "local": None,
        "untested": dict(tested.absent),
        **({"server": tested.server} if tested.server else {}),
        "facts": {site: facts.model_dump(mode="json") for site, facts in facts_in(run.store).items()},
        "curves": {"global": curve(trained), "pooled": None, "local": None},
        "participation": participation(trained),
        "suspects": suspects(trained.history),
        "cost": {"wall_s": _wall_s(run.store.all_events()), **cost([trained])},
    }


def identify(experiment: Experiment, trained: Trained) -> dict[str, Any]:
    """Which run this is, and of what."""
    return {
        "schema": SCHEMA,
        "run": trained.run,
        "version": medseg_core.__version__,
        "experiment_sha256": experiment_sha256(experiment),
        "task": experiment.task.name,
        "algorithm": experiment.federation.algorithm,
        "seed": experiment.federation.seed,
        "n_parameters": model_spec(experiment).n_parameters,
    }


def best_of(trained: Trained) -> dict[str, Any]:
    """The chosen round and why."""
    return {"round": trained.best_round, "validation_dice": trained.best_dice}


def site_counts(trained: Trained) -> dict[str, dict[str, dict[str, int]]]:
    """Patients and cases of each site by purpose, as the sites described them."""
    return {
        site: {kind: {p: counts[f"{p}_{kind}"] for p in PURPOSES} for kind in ("patients", "cases")}
        for site, counts in trained.cases.items()
    }


def curve(trained: Trained) -> list[dict[str, Any]]:
    """Loss and validation Dice by round."""
    return [
        {
            "round": record["round"],
            "training_loss": record["training_loss"],
            "validation_dice": record.get("validation_dice"),
            "sites": record.get("sites", {}),
            **({"server_dice": record["server_dice"]} if "server_dice" in record else {}),
        }
        for record in trained.history
    ]


def participation(trained: Trained) -> list[dict[str, Any]]:
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


def cost(trained: Sequence[Trained]) -> dict[str, float]:
    """What federations trained and sent, all together."""
    records = [record for federation in trained for record in federation.history]
    contributions = [c for record in records for c in record["contributed"].values()]
    evaluations = [record["evaluation"] for record in records if "evaluation" in record]
    return {
        "training_s": sum(c["training_s"] for c in contributions),
        "bytes_down": sum(c["bytes_down"] for c in [*contributions, *evaluations]),
        "bytes_up": sum(c["bytes_up"] for c in [*contributions, *evaluations]),
    }


def _wall_s(events: Sequence[Record]) -> float:
    """Seconds from the first record of a run to its test scores, interruptions included."""
    tested = next(event for event in events if event["event"] == "tested")
    return float(tested["time"] - events[0]["time"])
