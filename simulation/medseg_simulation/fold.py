"""One split of the virtual sites: the federation and its baselines trained, then everything tested once."""

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from medseg_client.model_scope import SCOPE_FILE
from medseg_client.personal import PERSONAL_CASES, PERSONAL_WEIGHTS
from medseg_client.site_data import SiteData
from medseg_core.assessment.scores import CaseScores
from medseg_core.config import Codec, Experiment, FineTuning, Tuned
from medseg_core.federation.checkpoint import load_checkpoint
from medseg_core.learning.device import usable_cores
from medseg_core.learning.networks import build_network
from medseg_core.learning.scope import Moments, read_moments
from medseg_core.learning.weights import set_weights
from medseg_core.wire.signatures import make_key
from medseg_server.own_data import OwnData
from medseg_server.requests import Coordinator
from medseg_server.rounds import Run, Trained, test_chosen, train
from medseg_server.run_store import RunStore
from medseg_simulation.misbehaviour.backdoor import Attack, attack_on
from medseg_simulation.misbehaviour.conduct import misconduct_of
from medseg_simulation.profiling import StepTrace
from medseg_simulation.side_by_side import side_by_side
from medseg_simulation.transport import VirtualSitesTransport
from medseg_simulation.virtual_site import Answering, Pool, VirtualSite, make_trainer
from medseg_simulation.virtual_sites import pooled

OnRound = Callable[[str, dict[str, Any]], None]  # model, record of the round
_CASES = TypeAdapter(list[CaseScores])


@dataclass(frozen=True)
class Compute:
    """What trains: neither changes a result, but a device may round differently."""

    device: torch.device
    sites_at_once: int  # or baselines; each with its own network and batch in memory, and cpu_threads
    pool: Pool | None = None  # of Ray actors; None: this process trains
    trace: StepTrace | None = None  # of a few steps, where this process trains

    @property
    def device_here(self) -> torch.device:
        """For what this process does itself: the actors may have a GPU where it has none."""
        has_it = self.device.type != "cuda" or torch.cuda.is_available()
        return self.device if has_it else torch.device("cpu")

    def answer_for(self, site: VirtualSite, faults: list[Exception]) -> Answering:
        """Who answers for a virtual site; what goes wrong there is added to `faults`."""
        if self.pool is not None:
            return self.pool.answer_for(site, on_fault=faults.append)
        trainer = make_trainer(site, self.device, on_fault=faults.append)
        if self.trace is not None:
            trainer.learn = self.trace.of(trainer.learn)
        return trainer


def sites_that_fit(device: torch.device, cpu_threads: int) -> int:
    """How many sites train at the same time unless somebody says: one on a GPU, else what the cores bear."""
    return max(1, usable_cores() // cpu_threads) if device.type == "cpu" else 1


@dataclass(frozen=True)
class FoldWatch:
    """What somebody watching is told."""

    on_round: OnRound
    on_stage: Callable[[str], None]


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
class Part:
    """How much of a split is done. A sweep trains baselines apart from federations, and tests what tuning chose."""

    models: tuple[str, ...] = ("global", "pooled", "local")  # those of them that the experiment asks for
    is_tested: bool = True


WHOLE = Part()


@dataclass(frozen=True)
class FoldResult:
    """What one split gave."""

    trained: Mapping[str, Trained]  # by model
    cases: Mapping[str, tuple[CaseScores, ...]]  # by model, test cases of all sites
    overlays: Mapping[str, bytes]  # by case, of the global model
    attack: Attack | None  # on the global model, where a site tried one that shows on test cases
    personal: Mapping[str, bytes]  # by site, safetensors: what is its own of the global model, if anything is
    scope: Mapping[str, Mapping[str, Moments]]  # by site: what cases the global model is for
    baseline_s: float  # spent on baselines


def run_fold(
    experiment: Experiment,
    data: Mapping[str, SiteData],
    folder: Path,
    *,
    compute: Compute,
    resume: bool,
    watch: FoldWatch,
    own_data: OwnData | None = None,
    part: Part = WHOLE,
) -> FoldResult:
    """Train the federation and its baselines, then score each chosen model once on every site's test cases.

    The global model is scored on `own_data` too, each round.
    """
    plans = [plan for plan in plan_models(experiment, data) if plan.name.split(":")[0] in part.models]
    clock, stop = _Clock(), threading.Event()

    def train_one(plan: ModelPlan) -> Trained:
        run = _open(plan, plan.data, folder, compute, stop=stop, resume=resume, on_round=watch.on_round)
        return train(replace(run, own_data=own_data if plan.name == "global" else None))

    watch.on_stage("training")
    with clock.of("global"):
        trained = {plan.name: train_one(plan) for plan in plans if plan.name == "global"}
    with clock.of("baselines"):
        alone = {plan.name: partial(train_one, plan) for plan in plans if plan.name != "global"}
        with closing(side_by_side(alone, at_once=compute.sites_at_once, stop=stop)) as baselines:
            trained |= {name: baseline.result() for name, baseline in baselines}
    if not part.is_tested:
        return FoldResult(trained, {}, {}, None, {}, {}, clock.baseline_s)
    watch.on_stage("scoring the test cases")
    cases: dict[str, tuple[CaseScores, ...]] = {}
    overlays: dict[str, bytes] = {}
    for plan in plans:
        with clock.of(plan.name):
            run = _open(plan, data, folder, compute, stop=stop, resume=True, on_round=watch.on_round)
            if not all(_tested(folder, run.identifier, site) for site in data):
                is_shared = plan.name == "global"
                test_chosen(run, trained[plan.name].best_round, tuple(data), with_scope=is_shared)
            scores, pictures = _collect(folder, run.identifier, tuple(data))
            cases[plan.name] = scores
            overlays |= pictures if plan.name == "global" else {}
    attack, personal, scope = None, dict[str, bytes](), dict[str, Mapping[str, Moments]]()
    if (shared := trained.get("global")) is not None:
        attack = _attack(experiment, data, folder, shared.best_round, compute.device_here)
        if experiment.federation.has_personal_models:
            cases["personal"] = _cases_in(folder, shared.run, tuple(data), PERSONAL_CASES)
        kept = {site: _tested(folder, shared.run, site)[-1] / PERSONAL_WEIGHTS for site in data}
        personal = {site: path.read_bytes() for site, path in kept.items() if path.exists()}
        scope = {site: _scope(folder, shared, site, experiment) for site in data}
    return FoldResult(trained, cases, overlays, attack, personal, scope, clock.baseline_s)


def plan_models(experiment: Experiment, data: Mapping[str, SiteData]) -> list[ModelPlan]:
    """The global model, first, and the baselines asked for.

    A baseline is a federation of one site that keeps its optimiser's memory: the same recipe, passes and choice of
    checkpoint, and equal to plain training on those cases. Sites misbehave in the federation alone.
    """
    plans = [ModelPlan("global", experiment, data)]
    settings = experiment.simulation
    if "pooled" in settings.baselines:
        everybody = {"pooled": pooled(data)}
        plans.append(ModelPlan("pooled", _central(experiment, settings.pooled, n_sites=len(data)), everybody))
    if "local" in settings.baselines:
        plans += [
            ModelPlan(f"local:{site}", _central(experiment, settings.local, n_sites=len(data)), {site: own})
            for site, own in data.items()
        ]
    return plans


def _central(experiment: Experiment, tuned: Tuned, *, n_sites: int) -> Experiment:
    """The experiment for one site alone, at the baseline's own best settings.

    A round of cyclic is one site's: the same passes over a case are a round in `n_sites`. No codec: nothing travels.
    """
    rounds_a_pass = n_sites if experiment.federation.algorithm == "cyclic" else 1
    federation = experiment.federation.model_copy(
        update={
            "rounds": math.ceil(experiment.federation.rounds / rounds_a_pass),
            "algorithm": "fedavg",
            "fine_tuning": FineTuning(),
            "server_momentum": 0.0,
            "server_learning_rate": 1.0,
            "optimiser_memory": True,
            "participants": None,
            "quorum": None,
            "required_sites": (),
            "max_update_norm": None,
        }
    )
    training = experiment.training.model_copy(update=tuned.model_dump(exclude_none=True))
    simulation = experiment.simulation.model_copy(update={"faults": None})
    every_rounds = max(1, experiment.evaluation.every_rounds // rounds_a_pass)
    return experiment.model_copy(
        update={
            "federation": federation,
            "training": training,
            "codec": Codec(),
            "evaluation": experiment.evaluation.model_copy(update={"every_rounds": every_rounds}),
            "simulation": simulation,
        }
    )


def _open(
    plan: ModelPlan,
    data: Mapping[str, SiteData],
    folder: Path,
    compute: Compute,
    *,
    stop: threading.Event,
    resume: bool,
    on_round: OnRound,
) -> Run:
    """The run of a plan over virtual sites with `data`. Keys live as long as the process: all parties are in it."""
    store = RunStore(folder / plan.folder)
    identifier = store.open(plan.experiment, run=run_identifier(folder, plan.name), resume=resume)
    coordinator_key, site_keys = make_key(), {site: make_key() for site in data}
    faults: list[Exception] = []
    over = (
        threading.Event()
    )  # of this run alone: what ends it must be heard before others say that they were stopped
    misconduct = misconduct_of(plan.experiment, tuple(data))

    largest_first = sorted(data, key=lambda site: -len(data[site].train))  # or the largest would end alone
    answering = {}
    for site in largest_first:
        virtual = VirtualSite(
            name=site,
            experiment=plan.experiment,
            data=data[site],
            state=folder / "sites" / site,
            key=site_keys[site],
            coordinator=coordinator_key.public_key(),
            misconduct=misconduct.get(site),
        )
        answering[site] = compute.answer_for(virtual, faults)
    roster = {site: key.public_key() for site, key in site_keys.items()}
    return Run(
        identifier,
        plan.experiment,
        Coordinator(coordinator_key, roster),
        VirtualSitesTransport(
            answering,
            faults,
            stop=over,
            is_over=lambda: over.is_set() or stop.is_set(),
            at_once=compute.sites_at_once,
        ),
        store,
        on_round=lambda record: on_round(plan.name, record),
    )


def run_identifier(folder: Path, model: str) -> str:
    """A name for a model's run: legible, legal on the wire, unique among the runs of a folder."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", folder.absolute().name).strip("-")[:24] or "run"
    digest = hashlib.sha256(f"{folder.absolute().name}|{model}".encode()).hexdigest()[:12]
    return f"{stem}.{model.split(':')[0]}.{digest}"


def _attack(
    experiment: Experiment,
    data: Mapping[str, SiteData],
    folder: Path,
    chosen_round: int,
    device: torch.device,
) -> Attack | None:
    """How far the chosen global model obeys a back door, on the test cases of all sites; None without one."""
    faults = experiment.simulation.faults
    if faults is None or faults.kind != "backdoor":
        return None
    torch.set_num_threads(experiment.training.cpu_threads)
    network = build_network(experiment.task, experiment.model, seed=0).to(device)
    weights = load_checkpoint(folder / "checkpoints" / f"round_{chosen_round:04d}").state.weights
    set_weights(network, weights)
    return attack_on(network, [case for own in data.values() for case in own.test], experiment, faults)


def _collect(
    folder: Path, run: str, sites: tuple[str, ...]
) -> tuple[tuple[CaseScores, ...], dict[str, bytes]]:
    """Test scores and pictures that the virtual sites keep: their owner sits at this machine."""
    pictures: dict[str, bytes] = {}
    for site in sites:
        pictures |= {path.stem: path.read_bytes() for path in _tested(folder, run, site)[-1].glob("*.npz")}
    return _cases_in(folder, run, sites, "cases.json"), pictures


def _cases_in(folder: Path, run: str, sites: tuple[str, ...], name: str) -> tuple[CaseScores, ...]:
    """The test scores of single cases in the file of this name at each virtual site."""
    files = [_tested(folder, run, site)[-1] / name for site in sites]
    return tuple(case for path in files for case in _CASES.validate_python(json.loads(path.read_text())))


def _scope(folder: Path, shared: Trained, site: str, experiment: Experiment) -> Mapping[str, Moments]:
    """What a virtual site told of the global model's scope; nothing where an earlier release tested it."""
    path = _tested(folder, shared.run, site)[-1] / SCOPE_FILE
    told = json.loads(path.read_text()) if path.exists() else {}
    return read_moments(told, shared.cases[site], experiment.task)


def _tested(folder: Path, run: str, site: str) -> list[Path]:
    """A site's stored test scores in a run, by attempt; all are of the same model."""
    found = (folder / "sites" / site / run).glob("evaluate_test_*/cases.json")
    return sorted((path.parent for path in found), key=lambda path: int(path.name.rsplit("_", 1)[1]))


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
