"""The global model scored at the sites: on validation as the next round trains, on the test cases once, at the end."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from medseg_core.assessment.released import Figures, read_figures
from medseg_core.config import Experiment
from medseg_core.federation.algorithms.base import ServerState
from medseg_core.federation.checkpoint import load_checkpoint, prune_checkpoints
from medseg_core.federation.shared_tensors import model_spec
from medseg_core.learning.scope import Moments, read_moments
from medseg_core.wire.header import PERSONAL, SCOPE_WANTED, Header
from medseg_server.asking import counted_in
from medseg_server.errors import SiteAnswersError
from medseg_server.run import Record, Run, best_round
from medseg_server.sending import Sending

Scores = dict[str, float | None]
Told = (
    float | None | str
)  # a site's validation Dice, None where it has no validation case, or why there is none
Described = Mapping[str, Mapping[str, int]]  # what each site counted


@dataclass(frozen=True)
class Tested:
    """Test figures that each site released, and why the others did not; and ours."""

    figures: Mapping[str, Figures]
    absent: Mapping[str, str]
    personal: Mapping[str, Figures]  # of each site's own model; of the same sites, or of none
    server: Mapping[str, float | int | None] | None = None  # on the coordinator's own cases
    scope: Mapping[str, Mapping[str, Moments]] = field(default_factory=dict)  # by site, of those that told


def is_due(experiment: Experiment, record: Record) -> bool:
    """Whether the model of a round is to be scored on validation, and has not been."""
    number, evaluation = record["round"], experiment.evaluation
    is_last = number == experiment.federation.rounds
    return "validation_dice" not in record and (is_last or number % evaluation.every_rounds == 0)


def evaluate_last(run: Run, state: ServerState, history: list[Record], described: Described) -> None:
    """Score the model of the last round on validation, if that is not done: no training follows that would.

    Raises SiteAnswersError where no site gives a score.
    """
    if not is_due(run.experiment, history[-1]):
        return
    sending = Sending(run.experiment, model_spec(run.experiment), state, history)
    scores, absent, traffic = _evaluate(run, state, sending, "validation", tuple(described))
    told: dict[str, Told] = {
        site: told_dice(own, described[site]["validation_cases"]) for site, own in scores.items()
    }
    note_scores(run, state, history, told=told | absent, described=described, traffic=traffic)


def told_dice(scores: Scores, n_cases: int) -> Told:
    """The validation Dice that a site tells, or what is wrong with it."""
    if scores.get("cases") != n_cases:
        return "bad_count"
    dice = scores.get("dice", -1.0)  # null where a site has no validation case
    if (dice is None) != (n_cases == 0) or not 0 <= (dice or 0.0) <= 1:
        return "bad_score"
    return dice


def note_scores(
    run: Run,
    state: ServerState,
    history: list[Record],
    *,
    told: Mapping[str, Told],
    described: Described,
    traffic: Mapping[str, int],
) -> None:
    """Write down the validation scores of the newest model, and keep its checkpoint if it is the best so far.

    `told` is what each site says, or why it says nothing. Raises SiteAnswersError where no site gives a score.
    """
    absent = {site: why for site, why in told.items() if isinstance(why, str)}
    dice = {site: d for site, d in sorted(told.items()) if isinstance(d, float)}
    if not dice:
        raise SiteAnswersError("evaluate", absent)
    n_cases = {site: described[site]["validation_cases"] for site in dice}
    mean = sum(d * n_cases[site] for site, d in dice.items()) / sum(n_cases.values())
    record = history[-1]
    record |= {"validation_dice": mean, "sites": dice, "scored_cases": n_cases, "evaluation": dict(traffic)}
    if run.own_data is not None:
        record["server_dice"] = run.own_data.dice(dict(state.weights))
    run.store.event("evaluated", round=state.round, absent=absent, **scores_of(record))
    prune_checkpoints(run.store.checkpoints, pinned={best_round(history)})
    run.on_round(record)


def test_chosen(
    run: Run,
    chosen_round: int,
    sites: tuple[str, ...],
    *,
    with_scope: bool = False,  # noqa: PT028 (no test)
) -> dict[str, Scores]:
    """Each site's test scores of the chosen model: the one time that test cases are read. Raises SiteAnswersError.

    `with_scope`: sites are to tell what cases the model is for, too.
    """
    state = load_checkpoint(run.store.checkpoints / f"round_{chosen_round:04d}").state
    sending = Sending(run.experiment, model_spec(run.experiment), state, is_held=True)
    scores, absent, _ = _evaluate(run, state, sending, "test", sites, with_scope=with_scope)
    if absent:
        raise SiteAnswersError("evaluate", absent)
    return scores


def test_and_read(run: Run, chosen_round: int, described: Described) -> Tested:
    """As `test_chosen`, across hospitals: what each site released, checked; a site without it is absent, with a reason.

    Raises SiteAnswersError where a required site is absent, or every site.
    """
    state = load_checkpoint(run.store.checkpoints / f"round_{chosen_round:04d}").state
    sending = Sending(run.experiment, model_spec(run.experiment), state, is_held=True)
    scores, absent, _ = _evaluate(run, state, sending, "test", tuple(described), with_scope=True)
    scope = {}
    figures: dict[str, Figures] = {}
    personal: dict[str, Figures] = {}
    for site, told in sorted(scores.items()):
        own = {
            name.removeprefix(PERSONAL): value for name, value in told.items() if name.startswith(PERSONAL)
        }
        found = _read(run, told, described[site])
        found_own = _read(run, own, described[site]) if run.experiment.federation.has_personal_models else {}
        if isinstance(found, str) or isinstance(found_own, str):
            absent[site] = found if isinstance(found, str) else str(found_own)
        else:
            figures[site] = found
            scope[site] = read_moments(told, described[site], run.experiment.task)
            personal |= {site: found_own} if found_own else {}
    needed = {site: why for site, why in absent.items() if site in run.experiment.federation.required_sites}
    if needed or not figures:
        raise SiteAnswersError("evaluate", needed or absent)
    server = run.own_data.scores(dict(state.weights)) if run.own_data is not None else None
    return Tested(figures, dict(sorted(absent.items())), personal, server, scope)


def _read(run: Run, told: Scores, counts: Mapping[str, int]) -> Figures | str:
    """The figures of a site's test, or why they cannot be used."""
    return read_figures(
        told,
        tuple(run.experiment.task.labels),
        n_cases=counts["test_cases"],
        n_patients=counts["test_patients"],
    )


def scores_of(record: Record | None) -> Record:
    """The scores in a round's record or in an `evaluated` event."""
    kept = ("validation_dice", "sites", "scored_cases", "evaluation", "server_dice")
    return {k: record[k] for k in kept if k in record} if record else {}


def _evaluate(
    run: Run,
    state: ServerState,
    sending: Sending,
    split: str,
    sites: tuple[str, ...],
    *,
    with_scope: bool = False,
) -> tuple[dict[str, Scores], dict[str, str], dict[str, int]]:
    """Scores of a model at each site, who did not answer, and what it took on the wire."""
    attempt = run.next_attempt(f"evaluating_{split}", state.round)
    wanted = {"counts": {SCOPE_WANTED: 1}} if with_scope else {}
    headers: dict[str, Header] = {
        site: run.header(
            "evaluate", site, state.round, attempt, split=split, **wanted, **counted_in(state, site)
        )
        for site in sites
    }
    scores: dict[str, Scores] = {}
    absent, traffic = {}, {"bytes_down": 0, "bytes_up": 0}
    for answer in sending.ask(run, headers):
        if answer.reply is None:
            absent[answer.site] = answer.reason
        else:
            scores[answer.site] = {**answer.reply.header.scalars, **answer.reply.header.counts}
        traffic["bytes_down"] += answer.bytes_down
        traffic["bytes_up"] += answer.bytes_up
    return scores, absent, traffic
