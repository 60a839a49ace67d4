"""One split of the virtual sites: the federation and its baselines trained, then everything tested once."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from medseg_client.site_data import SiteData
from medseg_client.site_state import SiteState
from medseg_client.trainer import SiteIdentity, Trainer
from medseg_core.assessment.scores import CaseScores
from medseg_core.config import Experiment, Tuned, experiment_sha256
from medseg_core.wire.signatures import make_key
from medseg_server.requests import Coordinator
from medseg_server.rounds import Run, Trained, test_chosen, train
from medseg_server.run_store import RunStore
from medseg_simulation.transport import InProcessTransport
from medseg_simulation.virtual_sites import pooled

OnRound = Callable[[str, dict[str, Any]], None]  # model, record of the round
_CASES = TypeAdapter(list[CaseScores])


@dataclass(frozen=True)
class ModelPlan:
    """One model to train: `global`, `pooled` or `local:SITE`, by whom, with which settings."""

    name: str
    experiment: Experiment
    data: Mapping[str, SiteData]  # of the sites that train it

    @property
    def folder(self) -> str:
        """Its run folder, relative to the fold's."""
        return "." if self.name == "global" else f"baselines/{self.name.replace(':', '/')}"


@dataclass(frozen=True)
class FoldResult:
    """What one split gave."""

    trained: Mapping[str, Trained]  # by model
    cases: Mapping[str, tuple[CaseScores, ...]]  # by model, test cases of all sites
    overlays: Mapping[str, bytes]  # by case, of the global model
    baseline_s: float  # spent on baselines


def run_fold(
    experiment: Experiment,
    data: Mapping[str, SiteData],
    folder: Path,
    *,
    device: torch.device,
    resume: bool,
    on_round: OnRound,
) -> FoldResult:
    """Train the federation and its baselines, then score each chosen model once on every site's test cases."""
    plans = plan_models(experiment, data)
    clock = _Clock()
    trained = {}
    for plan in plans:
        with clock.of(plan.name):
            trained[plan.name] = train(
                _open(plan, plan.data, folder, device, resume=resume, on_round=on_round)
            )
    cases: dict[str, tuple[CaseScores, ...]] = {}
    overlays: dict[str, bytes] = {}
    for plan in plans:
        with clock.of(plan.name):
            run = _open(plan, data, folder, device, resume=True, on_round=on_round)
            best_round = trained[plan.name].best_round
            test_chosen(run, best_round, tuple(data))
            scores, pictures = _collect(folder, run.identifier, tuple(data))
            cases[plan.name] = scores
            overlays |= pictures if plan.name == "global" else {}
    return FoldResult(trained, cases, overlays, clock.baseline_s)


def plan_models(experiment: Experiment, data: Mapping[str, SiteData]) -> list[ModelPlan]:
    """The global model and the baselines asked for.

    A baseline is a federation of one site that keeps its optimiser's memory: the same recipe, passes and choice of
    checkpoint, and equal to plain training on those cases.
    """
    plans = [ModelPlan("global", experiment, data)]
    settings = experiment.simulation
    if "pooled" in settings.baselines:
        plans.append(ModelPlan("pooled", _central(experiment, settings.pooled), {"pooled": pooled(data)}))
    if "local" in settings.baselines:
        plans += [
            ModelPlan(f"local:{site}", _central(experiment, settings.local), {site: own})
            for site, own in data.items()
        ]
    return plans


def _central(experiment: Experiment, tuned: Tuned) -> Experiment:
    """The experiment for one site alone, at the baseline's own best settings."""
    federation = experiment.federation.model_copy(
        update={
            "algorithm": "fedavg",
            "server_momentum": 0.0,
            "server_learning_rate": 1.0,
            "optimiser_memory": True,
            "participants": None,
            "quorum": None,
            "required_sites": (),
        }
    )
    training = experiment.training.model_copy(update=tuned.model_dump(exclude_none=True))
    return experiment.model_copy(update={"federation": federation, "training": training})


def _open(
    plan: ModelPlan,
    data: Mapping[str, SiteData],
    folder: Path,
    device: torch.device,
    *,
    resume: bool,
    on_round: OnRound,
) -> Run:
    """The run of a plan over trainers for `data`. Keys live as long as the process: all parties are in it."""
    store = RunStore(folder / plan.folder)
    identifier = store.open(plan.experiment, run=_identifier(plan, folder), resume=resume)
    coordinator_key, site_keys = make_key(), {site: make_key() for site in data}
    faults: list[Exception] = []
    trainers = {
        site: Trainer(
            SiteIdentity(site, site_keys[site], coordinator_key.public_key()),
            SiteState(folder / "sites" / site),
            approved={experiment_sha256(plan.experiment): plan.experiment},
            data_of=lambda experiment, site=site: data[site],  # type: ignore[misc]
            device=device,
            on_fault=faults.append,
        )
        for site in data
    }
    roster = {site: key.public_key() for site, key in site_keys.items()}
    return Run(
        identifier,
        plan.experiment,
        Coordinator(coordinator_key, roster),
        InProcessTransport(trainers, faults),
        store,
        on_round=lambda record: on_round(plan.name, record),
    )


def _identifier(plan: ModelPlan, folder: Path) -> str:
    """A name for the run, unique in its folder and legal on the wire."""
    stem = folder.name if folder.name.isalnum() else "run"
    return f"{stem}.{plan.name.replace(':', '.')}"[:64]


def _collect(
    folder: Path, run: str, sites: tuple[str, ...]
) -> tuple[tuple[CaseScores, ...], dict[str, bytes]]:
    """Test scores and pictures that the virtual sites keep: their owner sits at this machine."""
    cases: list[CaseScores] = []
    pictures: dict[str, bytes] = {}
    for site in sites:
        newest = max((folder / "sites" / site / run).glob("evaluate_test_*"))
        cases += _CASES.validate_python(json.loads((newest / "cases.json").read_text()))
        pictures |= {path.stem: path.read_bytes() for path in newest.glob("*.npz")}
    return tuple(cases), pictures


class _Clock:
    """Seconds spent on baselines."""

    def __init__(self) -> None:
        self.baseline_s = 0.0
        self._began = 0.0
        self._name = ""

    def of(self, name: str) -> "_Clock":
        self._name = name
        return self

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._name != "global":
            self.baseline_s += time.perf_counter() - self._began
