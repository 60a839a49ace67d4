"""One cell: its candidates trained and compared on validation, and only the chosen one tested."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from medseg_core.assessment.scores import CaseScores, own_site_cases, read_cases, write_cases
from medseg_core.assessment.summary import read_summary
from medseg_core.config import Experiment
from medseg_core.errors import ConfigError, RunError, TooFewPatientsError, UpdateError
from medseg_core.files import write_atomic
from medseg_server.run_store import RunStore
from medseg_simulation.errors import PartitionError
from medseg_simulation.fold import FoldResult, Part
from medseg_simulation.simulate import Place, Watch, simulate, simulate_part
from medseg_simulation.sweep.outcomes import Baseline, Baselines, Choice, Curve, Outcome, mean_curve

# what an algorithm, or a partition, cannot do here; other errors concern the whole sweep
OF_ONE_CELL = (ConfigError, RunError, UpdateError, PartitionError, TooFewPatientsError)
CHOICES, CURVES = "tuned.json", "curves.json"  # the second is written last

Choices = Mapping[str, Choice]  # of global, pooled, local
Diced = list[dict[str, float]]  # of each candidate, validation Dice by kind of model; empty where it failed


def is_done(folder: Path) -> bool:
    """Whether nothing of the cell in this folder is left to do."""
    runs = [folder, *folder.glob("candidate-*")]
    return (folder / CURVES).exists() or any(RunStore(run).events("finished") for run in runs)


def folder_of(cell: Path, tries: Sequence[Experiment], number: int) -> Path:
    """The run folder of a candidate, counted from 0: the cell's own where there is one only."""
    return cell if len(tries) == 1 else cell / f"candidate-{number + 1}"


def run_algorithm(
    tries: Sequence[Experiment], place: Place, watch: Watch, *, choices: Choices | None = None
) -> Outcome:
    """Train every candidate, or the one of `choices` alone, then test the chosen one; in `place.out`.

    What is done already is not repeated. Raises MedsegError leaves; OF_ONE_CELL where it is this cell's own trouble.
    """
    choice = (choices or _choose(tries, place, watch, ("global",)))["global"]
    run = folder_of(place.out, tries, choice.chosen)
    if not RunStore(run).events("finished"):
        simulate(tries[choice.chosen], _in(place, run), watch)
    is_personal = tries[choice.chosen].federation.has_personal_models
    cases = read_cases(run / "cases.json")["personal" if is_personal else "global"]
    return Outcome(read_summary(run / "summary.json"), cases, choice, is_personal=is_personal)


def run_baselines(
    tries: Sequence[Experiment], place: Place, watch: Watch, *, choices: Choices | None = None
) -> Baselines:
    """The same for the baselines of a setting, which are no federations: `cases.json` and `curves.json` are theirs."""
    names = tries[0].simulation.baselines
    choices = choices or _choose(tries, place, watch, names)
    if not (place.out / CURVES).exists():
        curves: dict[str, Curve] = {}
        models: dict[str, list[CaseScores]] = {}
        for name in names:
            chosen = choices[name].chosen
            there = _in(place, folder_of(place.out, tries, chosen))
            folds = simulate_part(tries[chosen], there, watch, Part((name,)))
            for model in folds[0].cases:
                models[model] = [case for fold in folds for case in fold.cases[model]]
            curves[name] = mean_curve(_curves(folds))
        write_cases(place.out / "cases.json", models)
        write_atomic(place.out / CURVES, json.dumps(curves).encode())
    scored, stored = read_cases(place.out / "cases.json"), json.loads((place.out / CURVES).read_bytes())
    cases = {"pooled": scored.get("pooled", []), "local": own_site_cases(scored)}
    return {
        name: Baseline(cases[name], {int(n): dice for n, dice in stored[name].items()}, choices[name])
        for name in names
    }


def _choose(
    tries: Sequence[Experiment], place: Place, watch: Watch, names: Sequence[str]
) -> dict[str, Choice]:
    """The candidate with the highest validation Dice, of each kind of model; no test case is read.

    Raises the last candidate's error if none can be trained.
    """
    path = place.out / CHOICES
    if len(tries) == 1:
        return {name: Choice(0) for name in names}
    if path.exists():
        stored = json.loads(path.read_bytes())
        return {
            name: Choice(stored[name]["chosen"], tuple(stored[name]["validation_dice"])) for name in names
        }
    found: Diced = []
    errors = []
    for number, experiment in enumerate(tries):
        there = _in(place, folder_of(place.out, tries, number))
        try:
            folds = simulate_part(experiment, there, watch, Part(tuple(names), is_tested=False))
            found.append({name: _validation_dice(folds, name) for name in names})
        except OF_ONE_CELL as error:
            errors.append(error)
            found.append({})
    if not any(found):
        raise errors[-1]
    choices = {name: Choice.best_of([dice.get(name) for dice in found]) for name in names}
    write_atomic(path, json.dumps({name: vars(choice) for name, choice in choices.items()}).encode())
    return choices


def _in(place: Place, folder: Path) -> Place:
    """The same machine and data; begun now, and going on with what is there."""
    return replace(place, out=folder, resume=True, began=time.time())


def _validation_dice(folds: Sequence[FoldResult], kind: str) -> float:
    """Of the chosen rounds; folds, and of `local` the sites, count once each."""
    return fmean(
        model.best_dice
        for fold in folds
        for name, model in fold.trained.items()
        if name.split(":")[0] == kind
    )


def _curves(folds: Sequence[FoldResult]) -> list[dict[int, float]]:
    """Validation Dice by round of every model."""
    return [
        {r["round"]: r["validation_dice"] for r in model.history if r.get("validation_dice") is not None}
        for fold in folds
        for model in fold.trained.values()
    ]
