"""From the outcomes of cells to the figures of the sweep."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

import medseg_core
from medseg_core.assessment.scores import CaseScores, by_site
from medseg_simulation.sweep.differences import Pairs, find_difference, paired
from medseg_simulation.sweep.outcomes import Baseline, Choice, Outcome, Outcomes, mean_curve
from medseg_simulation.sweep.plan import Plan
from medseg_simulation.sweep.recommendation import recommend
from medseg_simulation.sweep.results import (
    BaselineRow,
    Curve,
    Difference,
    Row,
    SettingResult,
    Spread,
    SweepResult,
    Tried,
)


def sum_up(plan: Plan, outcomes: Outcomes) -> SweepResult:
    """All figures of what is done so far."""
    sweep = plan.sweep
    settings = {setting.name: _setting_result(plan, outcomes, setting.name) for setting in sweep.setting}
    compared = _over_settings(plan, outcomes)
    n_done = len(outcomes.algorithms) + len(outcomes.failures) + len(outcomes.baselines)
    n_cells = len(sweep.seeds) * len(sweep.setting) * (len(sweep.algorithm) + bool(sweep.baselines))
    first = plan.tries_of(sweep.algorithm[0], sweep.setting[0], seed=sweep.seeds[0])[0]
    known = [outcome.summary.n_parameters for outcome in outcomes.algorithms.values()]
    figures = SweepResult(
        schema=1,
        version=medseg_core.__version__,
        task=first.task.name,
        n_parameters=max(known, default=0),
        rounds=first.federation.rounds,
        seeds=list(sweep.seeds),
        cells_left=n_cells - n_done,
        reference=sweep.reference,
        settings=settings,
        over_reference=compared,
        recommendation=recommend(sweep.reference, settings, compared, seeds=len(sweep.seeds)),
    )
    return figures


def _setting_result(plan: Plan, outcomes: Outcomes, name: str) -> SettingResult:
    """The rows of one setting."""
    baselines: dict[str, dict[int, Baseline]] = {}
    for cell, found in outcomes.baselines.items():
        for kind, baseline in found.items() if cell.setting == name else ():
            baselines.setdefault(kind, {})[cell.seed] = baseline
    failures: dict[str, dict[int, str]] = {}
    for cell, reason in outcomes.failures.items():
        if cell.setting == name:
            failures.setdefault(cell.row, {})[cell.seed] = reason
    rows = {}
    for entry in plan.sweep.algorithm:
        by_seed = _by_seed(outcomes, name, entry.row)
        if by_seed:
            difference = find_difference(
                _pairs(plan, outcomes, entry.row, (name,)), comparisons=_comparisons(plan)
            )
            rows[entry.row] = _row(by_seed, baselines, difference)
    return SettingResult(
        baselines={kind: _baseline_row(found) for kind, found in baselines.items()},
        algorithms=rows,
        failures=failures,
    )


def _row(
    by_seed: Mapping[int, Outcome],
    baselines: Mapping[str, Mapping[int, Baseline]],
    difference: Difference | None,
) -> Row:
    """An algorithm over its seeds; compared with baselines over the seeds that both have."""

    def minus(kind: str, sign: int) -> Spread | None:
        other = baselines.get(kind, {})
        values = {
            seed: sign * (_dice(outcome.cases) - _dice(other[seed].cases))
            for seed, outcome in by_seed.items()
            if seed in other
        }
        return _spread(values) if values else None

    contributions = [
        contribution
        for outcome in by_seed.values()
        for fold in outcome.summary.rounds_by_fold
        for record in fold
        for contribution in record.contributed.values()
    ]
    attacks = {
        seed: rate for seed, outcome in by_seed.items() if (rate := outcome.attack_success) is not None
    }
    return Row(
        dice=_over(by_seed, lambda o: _dice(o.cases)),
        worst_site=_over(by_seed, lambda o: _worst(o.cases)),
        validation_dice=_over(by_seed, lambda o: o.validation_dice),
        gap_to_pooled=minus("pooled", -1),
        gain_over_local=minus("local", 1),
        over_reference=difference,
        bytes_up=fmean(c.bytes_up for c in contributions) if contributions else 0.0,
        bytes_down=fmean(c.bytes_down for c in contributions) if contributions else 0.0,
        training_s=_over(by_seed, lambda o: o.summary.cost.training_s),
        attack_success=_spread(attacks) if attacks else None,
        is_personal=any(outcome.is_personal for outcome in by_seed.values()),
        curve=_curve([outcome.curve for outcome in by_seed.values()]),
        tuning=_tried({seed: outcome.choice for seed, outcome in by_seed.items()}),
    )


def _baseline_row(by_seed: Mapping[int, Baseline]) -> BaselineRow:
    return BaselineRow(
        dice=_spread({seed: _dice(found.cases) for seed, found in by_seed.items()}),
        worst_site=_spread({seed: _worst(found.cases) for seed, found in by_seed.items()}),
        curve=_curve([found.curve for found in by_seed.values()]),
        tuning=_tried({seed: found.choice for seed, found in by_seed.items()}),
    )


def _over_settings(plan: Plan, outcomes: Outcomes) -> dict[str, Difference]:
    """Difference to the reference of the rows that ran in every cell: a mean over fewer would not compare."""
    names = [setting.name for setting in plan.sweep.setting]
    found: dict[str, Difference] = {}
    for entry in plan.sweep.algorithm:
        pairs = _pairs(plan, outcomes, entry.row, names)
        if len(pairs) == len(names) * len(plan.sweep.seeds):
            difference = find_difference(pairs, comparisons=_comparisons(plan))
            found |= {entry.row: difference} if difference else {}
    return found


def _pairs(plan: Plan, outcomes: Outcomes, row: str, settings: Sequence[str]) -> Pairs:
    """Differences to the reference by case, of each setting and seed in which both ran."""
    reference = plan.sweep.reference
    pairs = {}
    for cell, outcome in outcomes.algorithms.items():
        if reference is None or cell.row != row or row == reference or cell.setting not in settings:
            continue
        other = outcomes.algorithms.get(replace(cell, row=reference))
        if other is not None:
            pairs[cell.setting, cell.seed] = paired(outcome.cases, other.cases)
    return pairs


def _comparisons(plan: Plan) -> int:
    """How many rows are compared with the reference."""
    return max(1, len(plan.sweep.algorithm) - 1)


def _by_seed(outcomes: Outcomes, setting: str, row: str) -> dict[int, Outcome]:
    cells = {cell: o for cell, o in outcomes.algorithms.items() if (cell.setting, cell.row) == (setting, row)}
    return {cell.seed: outcome for cell, outcome in cells.items()}


def _over(by_seed: Mapping[int, Outcome], figure: Callable[[Outcome], float]) -> Spread:
    return _spread({seed: figure(outcome) for seed, outcome in by_seed.items()})


def _spread(values: Mapping[int, float]) -> Spread:
    known = list(values.values())
    return Spread(mean=fmean(known), deviation=stdev(known) if len(known) > 1 else None, seeds=dict(values))


def _dice(cases: Sequence[CaseScores]) -> float:
    return fmean(case.dice for case in cases)


def _worst(cases: Sequence[CaseScores]) -> float:
    return min(_dice(own) for own in by_site(cases).values())


def _curve(curves: Sequence[Mapping[int, float]]) -> Curve:
    mean = mean_curve(curves)
    return Curve(rounds=list(mean), validation_dice=list(mean.values()))


def _tried(choices: Mapping[int, Choice]) -> dict[int, Tried]:
    return {
        seed: Tried(chosen=choice.chosen + 1, validation_dice=list(choice.validation_dice))
        for seed, choice in choices.items()
        if choice.validation_dice
    }
