"""A whole simulation: prepare the data, run every fold, write what a person and a program read."""

import importlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

import medseg_core
from medseg_core.assessment.scores import write_cases
from medseg_core.cohort.cache import images_sha256
from medseg_core.cohort.split import Fold
from medseg_core.config import Experiment
from medseg_core.federation.checkpoint import load_checkpoint
from medseg_core.files import sole_use, write_atomic
from medseg_core.learning.model_package import write_model
from medseg_core.learning.scope import join
from medseg_server.own_data import OwnData, open_own_data
from medseg_server.run_store import RunStore
from medseg_server.tensorboard import TensorBoard
from medseg_simulation.backend import RayCluster, prepare_environment
from medseg_simulation.fold import WHOLE, Compute, FoldResult, FoldWatch, Part, run_fold, run_identifier
from medseg_simulation.misbehaviour.attendance import check_attendance
from medseg_simulation.process import peak_rss_mb, process_started
from medseg_simulation.summary import summarise_run
from medseg_simulation.virtual_sites import VirtualSites, open_sites


@dataclass(frozen=True)
class Place:
    """Where a simulation reads and writes, and what trains it."""

    data: Path
    out: Path
    cache: Path
    compute: Compute
    resume: bool = False
    ray: RayCluster | None = None  # None: this process trains
    began: float = field(default_factory=process_started)  # seconds since the epoch


@runtime_checkable
class Watch(Protocol):
    """What somebody watching is told."""

    def on_case(self, total: int) -> None:
        """One more of `total` cases is prepared."""
        ...

    def on_warning(self, text: str) -> None:
        """Something to know about the data."""
        ...

    def on_stage(self, text: str) -> None:
        """The next part of the work begins."""
        ...

    def on_round(self, model: str, record: dict[str, Any]) -> None:
        """A round of `model` is trained, or evaluated."""
        ...


def simulate(experiment: Experiment, place: Place, watch: Watch) -> dict[str, Any]:
    """Run the experiment and leave a run folder in `place.out`; returns the content of `summary.json`.

    Raises MedsegError leaves for data, settings or folders that do not serve.
    """
    with _begun(experiment, place, watch) as (sites, own_data):
        with _computing(place, len(sites.cases), watch) as place:
            results = [_fold(experiment, sites, place, fold, watch, own_data) for fold in _folds(experiment)]
        watch.on_stage("writing the report")
        return _write(experiment, place, results, own_data)


def simulate_part(experiment: Experiment, place: Place, watch: Watch, part: Part) -> list[FoldResult]:
    """Do a part of the experiment in `place.out`, each fold, and write no results; `simulate` goes on from there.

    Raises what `simulate` does.
    """
    with (
        _begun(experiment, place, watch, part) as (sites, own_data),
        _computing(place, len(sites.cases), watch) as place,
    ):
        return [_fold(experiment, sites, place, fold, watch, own_data, part) for fold in _folds(experiment)]


@contextmanager
def _begun(
    experiment: Experiment, place: Place, watch: Watch, part: Part = WHOLE
) -> Iterator[tuple[VirtualSites, OwnData | None]]:
    """The data of a run whose folder is this process's own while inside."""
    store = RunStore(place.out)
    store.is_begun(experiment, resume=place.resume)  # said before minutes of reading
    watch.on_stage("reading and checking cases")
    with ThreadPoolExecutor(1) as pool:
        slow_imports = pool.submit(_import_slow_modules)
        sites = open_sites(place.data, experiment, cache=place.cache, on_case=watch.on_case)
        if "global" in part.models:
            check_attendance(experiment, tuple(sites.cases))
        slow_imports.result()  # MONAI must not be imported from two threads at a time
    with sole_use(place.out):
        run = run_identifier(place.out, "global")
        store.open(experiment, run=run, resume=place.resume, data_sha256=sites.data_sha256)
        store.event("started", version=medseg_core.__version__)
        for warning in sites.warnings:
            watch.on_warning(warning)
        own_data = open_own_data(experiment, base=Path(), cache=place.cache, on_warning=watch.on_warning)
        if own_data is not None and (shared := _shared_images(own_data, sites, place.cache)):
            watch.on_warning(
                f"[evaluation] server_data holds {len(shared)} of the sites' own images, as of case {shared[0]}: "
                "scores there, and with fltrust those of the sites, are flattered. Give cases of other patients."
            )
        yield sites, own_data


def _shared_images(own_data: OwnData, sites: VirtualSites, cache: Path) -> list[str]:
    """Cases of the coordinator whose images a site has, too."""
    of_sites = images_sha256([case.case for cases in sites.cases.values() for case in cases], cache)
    return sorted(case for image, case in images_sha256(own_data.cases, cache).items() if image in of_sites)


@contextmanager
def _computing(place: Place, n_sites: int, watch: Watch) -> Iterator[Place]:
    """The place, with Ray actors for at most `n_sites` at once where Ray is asked for."""
    if place.ray is None:
        yield place
        return
    prepare_environment(place.ray)
    from medseg_simulation.ray_pool import open_pool  # an extra

    watch.on_stage("starting Ray")
    with open_pool(place.ray, at_most=min(n_sites, place.ray.at_most or n_sites)) as pool:
        yield replace(place, compute=Compute(torch.device(pool.device), pool.size, pool))


def _import_slow_modules() -> None:
    """Seconds of imports beside the reading of cases, which runs mostly outside the interpreter.

    The first optimiser of a process imports `torch._dynamo` (torch 2.4 to 2.13), the first network MONAI.
    """
    for module in ("torch._dynamo", "monai.networks.nets"):
        importlib.import_module(module)


def _folds(experiment: Experiment) -> Sequence[Fold | None]:
    """The folds asked for; None stands for the one split."""
    count = experiment.simulation.folds
    return [None] if count is None else [Fold(index, count) for index in range(count)]


def _fold(
    experiment: Experiment,
    sites: VirtualSites,
    place: Place,
    fold: Fold | None,
    watch: Watch,
    own_data: OwnData | None,
    part: Part = WHOLE,
) -> FoldResult:
    """Train and test one split, in the run folder or in `folds/N` of it."""
    data = sites.split(experiment, fold)
    inner = "." if fold is None else f"folds/{fold.index}"
    if fold is not None:
        watch.on_stage(f"fold {fold.index + 1} of {fold.count}")
    board = TensorBoard(place.out / "tensorboard" / inner)

    one_by_one = threading.Lock()  # baselines tell of their rounds from threads of their own

    def on_round(model: str, record: dict[str, Any]) -> None:
        with one_by_one:
            board.add_round(model, record)
            watch.on_round(model, record)

    try:
        return run_fold(
            experiment,
            data,
            place.out / inner,
            compute=place.compute,
            resume=place.resume or fold is None,
            watch=FoldWatch(on_round, watch.on_stage),
            own_data=own_data,
            part=part,
        )
    finally:
        board.close()


def _write(
    experiment: Experiment, place: Place, results: Sequence[FoldResult], own_data: OwnData | None
) -> dict[str, Any]:
    """Scores, model, report."""
    from medseg_core.assessment.report import write_report  # matplotlib: only now, and only here

    models = {name: [c for r in results for c in r.cases[name]] for name in results[0].cases}
    write_cases(place.out / "cases.json", models)
    for result in results:
        for case_id, picture in result.overlays.items():
            write_atomic(place.out / "overlays" / f"{case_id}.npz", picture)
    first = place.out if experiment.simulation.folds is None else place.out / "folds" / "0"
    best = load_checkpoint(first / "checkpoints" / f"round_{results[0].trained['global'].best_round:04d}")
    summary = summarise_run(experiment, results, device=str(place.compute.device))
    if own_data is not None:
        summary["server"] = own_data.scores(dict(best.state.weights))
    baseline_s = sum(result.baseline_s for result in results)
    summary["cost"] |= {"peak_rss_mb": peak_rss_mb(), "wall_s": time.time() - place.began - baseline_s}
    write_model(place.out / "model", experiment, best.state.weights, summary, join(results[0].scope.values()))
    for site, own in results[0].personal.items():
        write_atomic(place.out / "model" / "personal" / f"{site}.safetensors", own)
    store = RunStore(place.out)
    store.write_json("summary.json", summary)
    write_report(place.out)
    summary["cost"] |= {"peak_rss_mb": peak_rss_mb(), "wall_s": time.time() - place.began - baseline_s}
    store.write_json("summary.json", summary)
    store.event("finished")
    return summary
