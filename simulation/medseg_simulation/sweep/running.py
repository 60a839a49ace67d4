"""Runs the cells of a sweep one after the other, and tells how long it will take."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

from medseg_core.cohort.cache import cases_sha256
from medseg_core.cohort.manifest import read_cohort
from medseg_core.config import Experiment, Task
from medseg_core.errors import OccupiedFolderError
from medseg_core.files import sole_use, write_atomic
from medseg_server.errors import DifferentExperimentError
from medseg_server.run_store import RunStore
from medseg_simulation.errors import ChangedSweepError, DifferentSweepError
from medseg_simulation.simulate import Place, Watch
from medseg_simulation.sweep.duration import Forecast, measure_pace, predict_training_s
from medseg_simulation.sweep.outcomes import Cell, Outcomes
from medseg_simulation.sweep.plan import BASELINES, Entry, Plan, Setting, sweep_toml
from medseg_simulation.sweep.tuning import (
    OF_ONE_CELL,
    Choices,
    folder_of,
    is_done,
    run_algorithm,
    run_baselines,
)
from medseg_simulation.virtual_sites import open_sites


class SweepWatch(Watch, Protocol):
    """What somebody watching a sweep is told, besides what happens in a run."""

    def on_forecast(self, left_s: float, runs: int) -> None:
        """So many seconds are left, it seems, for so many runs; told first before anything is trained."""
        ...

    def on_cell(self, name: str, models: int, rounds: int) -> None:
        """The next cell begins: so many models to train, each for so many rounds."""
        ...

    def on_cell_end(self, name: str, failure: str | None) -> None:
        """A cell is done, or cannot be."""
        ...


@dataclass(frozen=True)
class _Work:
    """One cell, and what it is made of."""

    cell: Cell
    setting: Setting
    entry: Entry | None  # None: the baselines

    def tries(self, plan: Plan) -> list[Experiment]:
        """Its experiments."""
        if self.entry is None:
            return plan.baseline_tries(self.setting, seed=self.cell.seed)
        return plan.tries_of(self.entry, self.setting, seed=self.cell.seed)


def run_sweep(
    plan: Plan, place: Place, watch: SweepWatch, *, on_outcomes: Callable[[Outcomes], None]
) -> Outcomes:
    """Run every cell that is not done yet in a folder of its own under `place.out`; `on_outcomes` after each.

    A cell that cannot be done is an outcome with a reason. Raises MedsegError leaves for what concerns all cells.
    """
    work, outcomes = _list_work(plan), Outcomes()
    _open_folder(plan, place, work)
    with sole_use(place.out):
        left = [piece for piece in work if not is_done(place.out / piece.cell.folder)]
        forecast = _forecast(plan, place, watch, left)
        for piece in work:
            if piece not in left:
                _do(plan, piece, place, watch, outcomes)
                continue
            watch.on_cell(piece.cell.name, *_size(plan, piece))
            began = time.time()
            _do(plan, piece, place, watch, outcomes)
            failure = outcomes.failures.get(piece.cell)
            forecast.note(_runs(plan, piece), None if failure else time.time() - began)
            watch.on_cell_end(piece.cell.name, failure)
            if forecast.runs_left and forecast.run_s:
                watch.on_forecast(forecast.left_s, forecast.runs_left)
            on_outcomes(outcomes)
    return outcomes


def _open_folder(plan: Plan, place: Place, work: list[_Work]) -> None:
    """Start a sweep in the folder or go on with it.

    Raises OccupiedFolderError, DifferentSweepError, ChangedSweepError where a cell was run by another experiment, or
    DifferentDataError where it was on other cases.
    """
    path, text = place.out / "sweep.toml", sweep_toml(plan.sweep)

    @cache
    def name_data(task: str) -> str:
        return cases_sha256(read_cohort(place.data, Task.model_validate_json(task)).cases, place.cache)

    if path.exists() and not place.resume:
        raise OccupiedFolderError(place.out)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise DifferentSweepError(place.out)
    for piece in work:
        for number, experiment in enumerate(tries := piece.tries(plan)):
            run = folder_of(place.out / piece.cell.folder, tries, number)
            try:
                is_begun = (store := RunStore(run)).is_begun(experiment, resume=True)
            except DifferentExperimentError:
                raise ChangedSweepError(place.out, piece.cell.name) from None
            if is_begun:
                store.require_data(name_data(experiment.task.model_dump_json()))
    write_atomic(path, text.encode())


def _list_work(plan: Plan) -> list[_Work]:
    """All cells, the first seed of every setting first, so that an early look shows all of them."""
    entries: list[Entry | None] = [None] if plan.sweep.baselines else []
    entries += plan.sweep.algorithm
    return [
        _Work(Cell(setting.name, seed, entry.row if entry else BASELINES), setting, entry)
        for seed in plan.sweep.seeds
        for setting in plan.sweep.setting
        for entry in entries
    ]


def _do(plan: Plan, piece: _Work, place: Place, watch: SweepWatch, outcomes: Outcomes) -> None:
    """Run a cell, or read what it gave when it was run."""
    cell, there = piece.cell, replace(place, out=place.out / piece.cell.folder)
    choices = _earlier_choices(plan, piece, outcomes)
    try:
        if piece.entry is None:
            outcomes.baselines[cell] = run_baselines(piece.tries(plan), there, watch, choices=choices)
        else:
            outcomes.algorithms[cell] = run_algorithm(piece.tries(plan), there, watch, choices=choices)
    except OF_ONE_CELL as error:
        outcomes.failures[cell] = str(error)


def _earlier_choices(plan: Plan, piece: _Work, outcomes: Outcomes) -> Choices | None:
    """What the first seed chose, where the sweep tunes on that seed only."""
    first = replace(piece.cell, seed=plan.sweep.seeds[0])
    if plan.sweep.tries == 1 or plan.sweep.tuning.on == "each_seed" or first == piece.cell:
        return None
    if first in outcomes.algorithms:
        return {"global": outcomes.algorithms[first].choice.without_scores}
    if first in outcomes.baselines:
        return {name: baseline.choice.without_scores for name, baseline in outcomes.baselines[first].items()}
    return None


def _runs(plan: Plan, piece: _Work) -> int:
    """How often all cases are trained on: for each candidate, and for each kind of baseline."""
    is_tuned_here = plan.sweep.tuning.on == "each_seed" or piece.cell.seed == plan.sweep.seeds[0]
    kinds = len(plan.sweep.baselines) if piece.entry is None else 1
    return kinds * (plan.sweep.tries if is_tuned_here else 1)


def _size(plan: Plan, piece: _Work) -> tuple[int, int]:
    """Runs and rounds of each."""
    return _runs(plan, piece), piece.tries(plan)[0].federation.rounds


def _forecast(plan: Plan, place: Place, watch: SweepWatch, left: list[_Work]) -> Forecast:
    """The duration of what is left, measured on the first experiment that can be run.

    Where none can, nothing is told: each cell gives its own reason.
    """
    runs = sum(_runs(plan, piece) for piece in left)
    for experiment in (experiment for piece in left for experiment in piece.tries(plan)):
        try:
            run_s = _predict(experiment, place, watch)
        except OF_ONE_CELL:
            continue
        forecast = Forecast(run_s * (experiment.simulation.folds or 1), runs)
        watch.on_forecast(forecast.left_s, forecast.runs_left)
        return forecast
    return Forecast(0.0, runs)


def _predict(experiment: Experiment, place: Place, watch: SweepWatch) -> float:
    """Seconds of a run of it. Raises what it cannot be run for."""
    sites = open_sites(place.data, experiment, cache=place.cache, on_case=watch.on_case)
    data = sites.split(experiment, None)
    run_s = predict_training_s(experiment, data, measure_pace(experiment, data, place.compute))
    for warning in sites.warnings:
        watch.on_warning(warning)
    return run_s
