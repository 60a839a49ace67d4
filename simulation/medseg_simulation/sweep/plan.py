"""The sweep file: which algorithms, in which settings, with which seeds. TOML in, strict frozen models out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, model_validator

from medseg_core.config import (
    AlgorithmName,
    Experiment,
    Federation,
    Name,
    PositiveInt,
    Section,
    Tuned,
    parse_document,
    parse_experiment,
    read_experiment,
    read_toml,
)
from medseg_core.errors import ExperimentFileError
from medseg_simulation.preset_files import read_preset

_FOLDER = Path(str(files("medseg_simulation"))) / "sweeps"
BASELINES = "baselines"  # the folder beside those of the algorithms
FILES = ("sweep.toml", "sweep.json", "sweep.html")  # beside the folders of the settings
SAME_FOR_ALL = ("task", "simulation")
LENGTH = ("rounds", "local_epochs")  # of `[federation]`: how much a run trains

Changes = dict[str, Any]  # to an experiment, by section
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Setting(Section):
    """`[[setting]]`: one way to make hospitals of the data."""

    name: Name
    changes: Changes = Field({})


class Entry(Section):
    """`[[algorithm]]`: one that is compared, at its own settings."""

    name: AlgorithmName
    label: Name | None = None  # of its row; None: the name
    changes: Changes = Field({})
    candidates: tuple[Changes, ...] = ()  # on top of `changes`; the best on validation is taken

    @property
    def row(self) -> str:
        """What its rows and folders are called."""
        return self.label or self.name


class Tuning(Section):
    """`[tuning]`: where candidates are compared, and those of the baselines."""

    on: Literal["each_seed", "first_seed"] = "each_seed"
    pooled: tuple[Tuned, ...] = ()
    local: tuple[Tuned, ...] = ()


class Sweep(Section):
    """A whole sweep file."""

    preset: str | None = None
    experiment: str | None = None  # file, relative to the sweep file
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    rounds: PositiveInt | None = None  # None: as the experiment says
    baselines: tuple[Literal["local", "pooled"], ...] = ()
    changes: Changes = Field({})  # to the experiment of every cell
    tuning: Tuning = Tuning()
    setting: Annotated[tuple[Setting, ...], Field(min_length=1)]
    algorithm: Annotated[tuple[Entry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _parts_agree(self) -> "Sweep":
        if (self.preset is None) == (self.experiment is None):
            raise ValueError("give either preset or experiment")
        _require_different("seeds", self.seeds)
        _require_different("[[setting]] names", [setting.name.casefold() for setting in self.setting])
        if taken := [setting.name for setting in self.setting if setting.name.casefold() in FILES]:
            raise ValueError(f'[[setting]] name = "{taken[0]}" is a file of the sweep: use another')
        rows = [entry.row.casefold() for entry in self.algorithm]
        _require_different("[[algorithm]] names (give a label where a name stands twice)", rows)
        if BASELINES in rows:
            raise ValueError(f'[[algorithm]] label = "{BASELINES}" is taken by the baselines: use another')
        self._require_equal_work()
        self._require_equal_budget()
        return self

    def _require_equal_work(self) -> None:
        """Rows differ in how they train, never in hospitals, truth or seed: their cases would not compare."""
        remedies = dict.fromkeys(SAME_FOR_ALL, "[[setting]] changes, or changes of the whole sweep")
        remedies |= {"federation.algorithm": "name", "federation.seed": "seeds of the whole sweep"}
        for entry in self.algorithm:
            for changes in (entry.changes, *entry.candidates):
                named = {*changes, *(f"federation.{key}" for key in changes.get("federation", {}))}
                if wrong := sorted(named & remedies.keys()):
                    raise ValueError(
                        f"changes of algorithm {entry.row} hold {wrong[0]}, in which rows must not differ or could "
                        f"not be compared: use {remedies[wrong[0]]} instead"
                    )

    def _require_equal_budget(self) -> None:
        """Everybody gets as many tries, so that nobody wins by having been tuned more."""
        tries = {entry.row: len(entry.candidates) or 1 for entry in self.algorithm}
        tries |= {name: len(getattr(self.tuning, name)) or 1 for name in self.baselines}
        if len(set(tries.values())) > 1:
            told = ", ".join(f"{name} {count}" for name, count in tries.items())
            raise ValueError(
                f"candidates differ in number ({told}), so the comparison would be unfair: give every algorithm, "
                "and in [tuning] every baseline, equally many"
            )

    @property
    def tries(self) -> int:
        """Candidates of each algorithm and baseline; 1: nothing is tuned."""
        return len(self.algorithm[0].candidates) or 1

    @property
    def reference(self) -> str | None:
        """The row that the others are compared with: the first fedavg; None where there is none."""
        return next((entry.row for entry in self.algorithm if entry.name == "fedavg"), None)


@dataclass(frozen=True)
class Plan:
    """A sweep and the experiment that it starts from."""

    sweep: Sweep
    base: Experiment

    def tries_of(self, entry: Entry, setting: Setting, *, seed: int) -> list[Experiment]:
        """The experiments of an algorithm in a setting: one, or one for each candidate. Raises ExperimentFileError."""
        own: Changes = {
            "federation": {"algorithm": entry.name, "seed": seed},
            "simulation": {"baselines": []},
        }
        candidates = entry.candidates or ({},)
        return [self._changed(setting, entry.changes, candidate, own) for candidate in candidates]

    def baseline_tries(self, setting: Setting, *, seed: int) -> list[Experiment]:
        """The experiments that the baselines of a setting are trained by: candidates of both go together.

        They pass over each case as often as the first fedavg does, or else the first algorithm, by its `changes`. A
        round of cyclic is one site's, of any other all sites': more of an algorithm does not concern them.
        """
        sweep, found = self.sweep, list[Experiment]()
        measure = next((e for e in sweep.algorithm if e.name == "fedavg"), sweep.algorithm[0])
        counted_as = "cyclic" if measure.name == "cyclic" else "fedavg"
        length = {key: value for key, value in measure.changes.get("federation", {}).items() if key in LENGTH}
        for number in range(sweep.tries):
            tuned = {
                name: candidates[number].model_dump(exclude_none=True)
                for name in sweep.baselines
                if (candidates := getattr(sweep.tuning, name))
            }
            own: Changes = {
                "federation": {"algorithm": counted_as, "seed": seed},
                "simulation": {"baselines": list(sweep.baselines), **tuned},
            }
            found.append(self._changed(setting, {"federation": length}, own))
        return found

    def _changed(self, setting: Setting, *more: Changes) -> Experiment:
        """The base with all that changes it, the last one winning."""
        document = self.base.model_dump(mode="json", exclude_none=True)
        rounds: Changes = {} if self.sweep.rounds is None else {"federation": {"rounds": self.sweep.rounds}}
        for changes in (rounds, self.sweep.changes, setting.changes, *more):
            document = _merged(document, changes)
        return parse_experiment(document, source=f"setting {setting.name}")


def sweep_names() -> list[str]:
    """Sweeps that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_sweep(wanted: str) -> Plan:
    """A sweep, by its name or as a file.

    Raises ExperimentFileError, with every fault of every cell's experiment, or UnknownPresetError.
    """
    path = _FOLDER / f"{wanted}.toml" if wanted in sweep_names() else Path(wanted)
    if not path.exists():
        known = ", ".join(sweep_names())
        raise ExperimentFileError(wanted, [f"no such file. Give a sweep file, or one of {known}"])
    sweep = parse_document(Sweep, read_toml(path), source=str(path))
    base = read_preset(sweep.preset) if sweep.preset else read_experiment(path.parent / str(sweep.experiment))
    plan = Plan(sweep, base)
    _check_cells(plan, source=str(path))
    return plan


def sweep_toml(sweep: Sweep) -> str:
    """The resolved sweep as TOML."""
    return tomli_w.dumps(sweep.model_dump(mode="json", exclude_none=True))


def _merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged, everything else is replaced."""
    merged = dict(document)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _check_cells(plan: Plan, *, source: str) -> None:
    """Every cell's experiment is one, and candidates differ. Raises ExperimentFileError with all faults."""
    faults, sweep, seed = [], plan.sweep, plan.sweep.seeds[0]
    for setting in sweep.setting:
        makers: dict[str, Callable[[], list[Experiment]]] = {
            entry.row: partial(plan.tries_of, entry, setting, seed=seed) for entry in sweep.algorithm
        }
        if sweep.baselines:
            makers[BASELINES] = partial(plan.baseline_tries, setting, seed=seed)
        for row, make in makers.items():
            try:
                tries = make()
            except ExperimentFileError as error:
                faults += [f"{row} in setting {setting.name}: {fault}" for fault in error.faults]
            else:
                if sweep.tries > 1 and (fault := _ties(tries)):
                    faults.append(f"{row} in setting {setting.name}: two candidates {fault}")
    if faults:
        raise ExperimentFileError(source, faults)


def _ties(tries: list[Experiment]) -> str | None:
    """What two candidates have in common that validation cannot tell apart; None where all differ.

    Validation is of the shared model: what a site does for a model of its own alone does not show there.
    """
    if len(set(map(repr, tries))) < len(tries):
        return "are the same experiment"
    plain = Federation()
    own = {"ditto": plain.ditto, "fine_tuning": plain.fine_tuning}
    federations = [one.federation.model_copy(update=own) for one in tries]
    shared = [one.model_copy(update={"federation": f}) for one, f in zip(tries, federations, strict=True)]
    if len(set(map(repr, shared))) < len(tries):
        return (
            "differ in the sites' own models alone, and validation is of the shared one: give each a row of its own "
            "by a label"
        )
    return None


def _require_different(what: str, names: Iterable[object]) -> None:
    kept = list(names)
    if len(set(kept)) < len(kept):
        raise ValueError(f"{what} must differ, got {', '.join(map(str, kept))}")
