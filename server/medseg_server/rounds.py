"""The round loop: choose sites, send the model, add what comes back, step, checkpoint, evaluate.

The same loop drives a simulation and a real federation; only the transport differs.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

from medseg_core.config import Experiment
from medseg_core.errors import RunError, UpdateError
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.algorithms.base import Accumulator, Algorithm, ServerState, frozen
from medseg_core.federation.checkpoint import newest_checkpoint, save_checkpoint
from medseg_core.federation.codec import decode_kinds, encode_kinds
from medseg_core.federation.codecs import build_codec
from medseg_core.federation.exact_sum import integer_weights
from medseg_core.federation.shared_tensors import initial_network, model_spec
from medseg_core.federation.update import (
    DELTA,
    MODEL,
    ClientUpdate,
    ModelSpec,
    Reason,
    check_update,
    spec_for,
)
from medseg_core.learning.weights import get_weights
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import SCORE, SCORED_CASES
from medseg_server.agreement import Direction, agreement_by_chance, agreements, direction_of
from medseg_server.asking import headers_of_round, last_updates
from medseg_server.describing import describe
from medseg_server.errors import (
    QuorumError,
    RequiredSiteError,
    TooFewSitesError,
    TooFewUpdatesError,
    UnreachableQuorumError,
    UnscoredSitesError,
)
from medseg_server.evaluating import (
    Described,
    Told,
    evaluate_last,
    is_due,
    note_scores,
    scores_of,
    test_chosen,
    told_dice,
)
from medseg_server.participation import (
    choose_participants,
    contribution,
    participation,
    steps_of_round,
    turns,
    weight_by_gain,
    weights_of,
)
from medseg_server.requests import Answer
from medseg_server.run import Record, Run, best_round
from medseg_server.sending import Sending, moved_by_code

__all__ = ["Run", "Trained", "describe", "model_spec", "recall", "test_chosen", "train"]


# why an update did not count, where it lay in what the site sent or would have sent
REFUSED = {*get_args(Reason), RefusalCode.DIVERGED}
LAST_ATTEMPT = 10  # at a round whose attempts sites have seen: it ends though a site always says so


class _TakenError(Exception):
    """Sites answered this attempt before, as of a folder that is older than they are: restored from a backup."""


@dataclass(frozen=True)
class Trained:
    """A finished run: the model chosen by validation, and what happened."""

    run: str
    best_round: int
    history: tuple[Record, ...]
    cases: Mapping[str, Mapping[str, int]]  # what each site described

    @property
    def best_dice(self) -> float:
        """Validation Dice of the chosen model."""
        return float(next(r["validation_dice"] for r in self.history if r["round"] == self.best_round))


def train(run: Run) -> Trained:
    """Run all rounds that are not done yet; every finished round is on disk before the next one starts.

    Raises:
        QuorumError: too few sites contributed to a round.
        RequiredSiteError: a required site did not contribute.
        SiteAnswersError: sites did not describe their cases, or none evaluated the model.
    """
    described = describe(run)
    algorithm, spec = build_algorithm(run.experiment), model_spec(run.experiment)
    _check_possible(run.experiment, described, algorithm.fewest_sites)
    state, history = _restore(run, algorithm, spec)
    while state.round < run.experiment.federation.rounds:
        state, payload = _in_payload(state, algorithm, spec)
        try:
            state, record = _round(
                run, algorithm, spec, state=state, payload=payload, history=history, described=described
            )
        except _TakenError:
            continue
        history.append(record)
        del payload  # with it go the weights before this round
        save_checkpoint(run.store.checkpoints, state, {"history": history})
    evaluate_last(run, state, history, described)
    best = best_round(history)
    run.store.event("trained", best_round=best, rounds=state.round)
    return Trained(run.identifier, best, tuple(history), described)


def recall(run: Run) -> Trained:
    """What `train` gave when it ended, from the run's folder alone: nobody is asked."""
    algorithm, spec = build_algorithm(run.experiment), model_spec(run.experiment)
    _, history = _restore(run, algorithm, spec)
    (described, *_) = run.store.events("described")
    return Trained(run.identifier, best_round(history), tuple(history), described["sites"])


def _restore(run: Run, algorithm: Algorithm, spec: ModelSpec) -> tuple[ServerState, list[Record]]:
    """State and history of the newest whole checkpoint, or round 0."""
    checkpoint = newest_checkpoint(
        run.store.checkpoints, on_torn=lambda why: run.store.event("torn", detail=why)
    )
    if checkpoint is not None:
        run.store.event("resumed", round=checkpoint.state.round)
        history = list(checkpoint.record["history"])
        scored = {e["round"]: e for e in run.store.events("evaluated")}
        return checkpoint.state, [r | scores_of(scored.get(r["round"])) for r in history]
    state = _first_state(run.experiment, algorithm, spec)
    gc.collect()  # a network refers to itself: it would stay in memory until Python looks
    save_checkpoint(run.store.checkpoints, state, {"history": []})
    return state, []


def _first_state(experiment: Experiment, algorithm: Algorithm, spec: ModelSpec) -> ServerState:
    """The state of round 0."""
    weights = get_weights(initial_network(experiment))
    return algorithm.init({name: weights[name] for name in spec.tensors}, spec)


def _in_payload(state: ServerState, algorithm: Algorithm, spec: ModelSpec) -> tuple[ServerState, bytes]:
    """What goes to the sites, and the state with the weights that lie in it: the model is in memory once."""
    downloads = {kind: state.memory[kind] for kind in algorithm.downloads}
    payload = encode_kinds({MODEL: state.weights, **downloads}, main=MODEL)
    weights = decode_kinds(payload, {MODEL: spec}, main=MODEL, besides=algorithm.downloads)[MODEL]
    return replace(state, weights=frozen(weights)), payload


@dataclass(frozen=True)
class _Returned:
    """What came back in a round."""

    contributed: dict[str, Record] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # who did not contribute, and why
    directions: dict[str, Direction] = field(default_factory=dict)  # of the updates that contributed
    told: dict[str, Told] = field(default_factory=dict)  # scores of the model that was sent
    traffic: dict[str, int] = field(
        default_factory=lambda: {"bytes_down": 0, "bytes_up": 0}
    )  # for a score alone


def _round(
    run: Run,
    algorithm: Algorithm,
    spec: ModelSpec,
    *,
    state: ServerState,
    payload: bytes,
    history: list[Record],
    described: Described,
) -> tuple[ServerState, Record]:
    """One round: ask the participants, add each update as it arrives, step.

    The same message asks for the validation score of the model that it brings, where one is due. A site that is not
    drawn for training is asked for the score alone.
    """
    number = state.round + 1
    attempt = run.next_attempt("round_started", number)
    is_scoring = bool(history) and is_due(run.experiment, history[-1])
    weights = weights_of(run.experiment, described)
    accumulator = algorithm.start(state, spec)
    if algorithm.wants_reference:
        assert run.own_data is not None, "an experiment without server_data is refused"
        accumulator.reference = run.own_data.update(dict(state.weights), number)
    sending = Sending(run.experiment, spec, state, history, besides=algorithm.downloads, whole=payload)
    kept = last_updates(history, best_round(history)) if algorithm.personalises else {}

    def ask(names: tuple[str, ...], to_score: tuple[str, ...]) -> Iterator[Answer]:
        headers = headers_of_round(run, state, attempt, to_train=names, to_score=to_score, kept=kept)
        return sending.ask(run, headers)

    to_score = tuple(described) if is_scoring else ()
    returned = _in_turn(
        run, algorithm, accumulator, ask, number=number, to_score=to_score, described=described
    )
    contributed, absent = returned.contributed, returned.absent
    for site, agreement in agreements(returned.directions).items():
        contributed[site]["agreement"] = agreement
    accumulator.share = sum(weights[site] for site in contributed) / sum(weights.values())

    def failed() -> None:
        accumulator.discard()
        run.store.event("round_failed", round=number, attempt=attempt, **participation(contributed, absent))

    try:
        fewest = algorithm.fewest_left(sum(why in REFUSED for why in absent.values()))
        _check_participation(run.experiment, number, contributed, absent, fewest=fewest)
    except RunError as error:
        failed()
        if attempt < LAST_ATTEMPT and RefusalCode.CONFLICTING_REQUEST in absent.values():
            raise _TakenError from error
        raise
    if is_scoring:
        told, traffic = returned.told, returned.traffic
        note_scores(run, state, history, told=told, described=described, traffic=traffic)
    try:
        new_state, diagnostics = algorithm.finish(
            accumulator, state, counted=dict.fromkeys(contributed, (number, attempt))
        )
    except RunError:
        failed()
        raise
    new_state = moved_by_code(state, new_state, spec, build_codec(run.experiment))
    record = {
        "round": number,
        "attempt": attempt,
        **participation(contributed, absent),
        **sending.facts,
        "agreement_by_chance": agreement_by_chance(spec),
        "diagnostics": diagnostics,
    }
    run.store.event("round_finished", **record)
    run.on_round(record)
    return new_state, record


def _in_turn(
    run: Run,
    algorithm: Algorithm,
    accumulator: Accumulator,
    ask: Callable[[tuple[str, ...], tuple[str, ...]], Iterator[Answer]],
    *,
    number: int,
    to_score: tuple[str, ...],
    described: Described,
) -> _Returned:
    """What comes back of a round: `ask` those whose turn it is, and where none of them contributes those that stand in.

    Whoever is to score is asked for that beside the first; beside the next, where nobody told.
    """
    returned = _Returned()
    for names in turns(run.experiment, tuple(described), number):
        answers = ask(names, () if returned.told else to_score)
        _receive(
            returned,
            run,
            algorithm,
            accumulator,
            number=number,
            answers=answers,
            participants=names,
            described=described,
        )
        if returned.contributed:
            break
    return returned


def _receive(
    returned: _Returned,
    run: Run,
    algorithm: Algorithm,
    accumulator: Accumulator,
    *,
    number: int,
    answers: Iterator[Answer],
    participants: tuple[str, ...],
    described: Described,
) -> None:
    """Take answers as they arrive; updates are weighted by the cases that sites described."""
    cases = {site: described[site]["train_cases"] for site in participants}
    all_weights = weights_of(run.experiment, described)
    weights = integer_weights({site: all_weights[site] for site in participants})
    for answer in answers:
        site = answer.site
        if site not in weights:
            returned.traffic["bytes_down"] += answer.bytes_down
            returned.traffic["bytes_up"] += answer.bytes_up
        else:
            try:
                norm, direction = _add(
                    run.experiment, algorithm, accumulator, answer, n_cases=cases[site], weight=weights[site]
                )
            except UpdateError as error:
                returned.absent[site] = error.reason
                run.store.event("rejected", round=number, site=site, reason=error.reason)
            else:
                returned.contributed[site] = contribution(answer, norm)
                returned.directions[site] = direction
        if site not in returned.told:  # who stands in may have told it before
            n_scored = described[site]["validation_cases"]
            returned.told[site] = returned.absent.get(site) or _score_in(answer, n_scored)
        del answer  # before the next is fetched: one update in memory at a time


def _add(
    experiment: Experiment,
    algorithm: Algorithm,
    accumulator: Accumulator,
    answer: Answer,
    *,
    n_cases: int,
    weight: int,
) -> tuple[float, Direction]:
    """Check the update in an answer and add it; gives its L2 norm and where it points.

    Raises UpdateError, also for an absent site.
    """
    specs: dict[str, ModelSpec] = {kind: spec_for(kind, accumulator.spec) for kind in algorithm.uploads}
    update, norm = _update_in(answer, specs, experiment, n_cases)
    by_gain = experiment.federation.weights == "validation_gain"
    algorithm.add(accumulator, update, weight_by_gain(answer) if by_gain else weight)
    return norm, direction_of(update.delta, accumulator.spec)


def _score_in(answer: Answer, n_cases: int) -> Told:
    """The validation Dice in an answer, or why there is none."""
    if answer.reply is None:
        return answer.reason
    header = answer.reply.header
    if header.kind == "evaluate":
        return told_dice({**header.scalars, **header.counts}, n_cases)
    if SCORE not in header.scalars:
        return str(RefusalCode.NOT_RELEASED)
    return told_dice({"dice": header.scalars[SCORE], "cases": header.counts.get(SCORED_CASES)}, n_cases)


def _update_in(
    answer: Answer, specs: Mapping[str, ModelSpec], experiment: Experiment, expected_cases: int
) -> tuple[ClientUpdate, float]:
    """The checked update in an answer, and its L2 norm. Raises UpdateError, also for an absent site."""
    if answer.reply is None:
        raise UpdateError(answer.reason, f"site {answer.site} did not contribute")
    n_cases = answer.reply.header.counts.get("cases", 0)
    if n_cases != expected_cases:
        raise UpdateError(
            "bad_count", f"site {answer.site} counts {n_cases} cases, described were {expected_cases}"
        )
    header, limit = answer.reply.header, experiment.federation.max_update_norm
    n_steps, loss = header.counts.get("steps", 0), header.scalars.get("loss")
    most = steps_of_round(experiment, n_cases)
    fewest = most if experiment.federation.algorithm == "fednova" else 0  # which divides by them
    if not fewest <= n_steps <= most:
        raise UpdateError("bad_count", f"site {answer.site} tells of {n_steps} steps, a round has {most}")
    kinds = decode_kinds(answer.reply.payload, specs, main=DELTA, codec=build_codec(experiment))
    norms = {
        kind: check_update(tensors, specs[kind], max_norm=limit if kind == DELTA else None)
        for kind, tensors in kinds.items()
    }
    others = {kind: tensors for kind, tensors in kinds.items() if kind != DELTA}
    return ClientUpdate(answer.site, kinds[DELTA], n_cases, n_steps, loss, others), norms[DELTA]


def _check_possible(experiment: Experiment, described: Described, fewest: int) -> None:
    """Required sites are there, and a round asks enough sites for the quorum and for the algorithm's rule.

    And with weights by validation each site has validation cases.
    Raises UnscoredSitesError, RequiredSiteError, UnreachableQuorumError, TooFewSitesError.
    """
    federation = experiment.federation
    unscored = [site for site, counts in described.items() if not counts["validation_cases"]]
    if unscored and federation.weights == "validation_gain":
        raise UnscoredSitesError(unscored)
    if unknown := [f"{s} (not enrolled)" for s in federation.required_sites if s not in described]:
        raise RequiredSiteError(1, unknown)
    n_asked = len(choose_participants(experiment, tuple(described), 1))
    if (quorum := federation.quorum or n_asked) > n_asked:
        raise UnreachableQuorumError(quorum, n_asked)
    if fewest > n_asked:
        raise TooFewSitesError(federation.algorithm, fewest, n_asked)


def _check_participation(
    experiment: Experiment, number: int, contributed: Record, absent: Mapping[str, str], *, fewest: int
) -> None:
    """Quorum, the algorithm's rule and required sites hold, or an error names who is missing and why."""
    federation = experiment.federation
    missing = [f"{site} ({absent[site]})" for site in federation.required_sites if site in absent]
    if missing:
        raise RequiredSiteError(number, missing)
    quorum = federation.quorum or len(contributed) + len(absent)
    if len(contributed) >= max(quorum, fewest, 1):
        return
    who = [f"{site} ({why})" for site, why in sorted(absent.items())]
    if len(contributed) >= quorum:
        raise TooFewUpdatesError(number, federation.algorithm, fewest, len(contributed), who)
    can_stand_in = federation.algorithm == "cyclic" and federation.quorum is None
    raise QuorumError(number, len(contributed), quorum, who, can_stand_in=can_stand_in)
