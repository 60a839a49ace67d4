"""The round loop: choose sites, send the model, add what comes back, step, checkpoint, evaluate.

The same loop drives a simulation and a real federation; only the transport differs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medseg_core.config import Experiment, experiment_sha256
from medseg_core.errors import QuorumError, RequiredSiteError, SiteAnswersError, UpdateError
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.algorithms.base import Algorithm, ServerState
from medseg_core.federation.checkpoint import (
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from medseg_core.federation.codec import decode_tensors, encode_tensors
from medseg_core.federation.exact_sum import integer_weights
from medseg_core.federation.update import ClientUpdate, ModelSpec, check_update, spec_of
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import get_weights, parameter_names
from medseg_core.seeding import derive_seed
from medseg_core.wire.header import Header, Kind, new_nonce
from medseg_server.requests import Answer, Coordinator, ask
from medseg_server.run_store import RunStore
from medseg_server.transport import Transport

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run: what is asked, of whom, and where it is kept."""

    identifier: str
    experiment: Experiment
    coordinator: Coordinator
    transport: Transport
    store: RunStore
    on_round: Callable[[Record], None] = field(default=lambda record: None)

    def header(self, kind: Kind, site: str, round_number: int, attempt: int, **more: Any) -> Header:
        """A request's header."""
        return Header(
            kind=kind,
            direction="request",
            run=self.identifier,
            round=round_number,
            attempt=attempt,
            site=site,
            nonce=new_nonce(),
            task=self.experiment.task.name,
            experiment_sha256=experiment_sha256(self.experiment),
            **more,
        )

    def next_attempt(self, event: str, round_number: int) -> int:
        """Attempts at this round so far, in earlier processes too, plus one; written down before anything is sent."""
        attempt = 1 + sum(e["round"] == round_number for e in self.store.events(event))
        self.store.event(event, round=round_number, attempt=attempt)
        return attempt


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
    """
    described = describe(run)
    algorithm, spec = build_algorithm(run.experiment.federation), model_spec(run.experiment)
    state, history = _restore(run, algorithm, spec)
    total = run.experiment.federation.rounds
    while state.round < total:
        state, record = _round(run, algorithm, spec, state=state, described=described)
        history.append(record)
        save_checkpoint(run.store.checkpoints, state, {"history": history})
        _evaluate_if_due(run, state, history)
    _evaluate_if_due(run, state, history)  # where the last process died between the two
    best = _best(history)
    run.store.event("trained", best_round=best, rounds=total)
    return Trained(run.identifier, best, tuple(history), described)


def describe(run: Run) -> dict[str, dict[str, int]]:
    """Case counts of every site. Raises SiteAnswersError naming the sites that did not answer."""
    attempt = run.next_attempt("describing", 0)
    sites = run.transport.sites()
    headers = {site: run.header("describe", site, 0, attempt) for site in sites}
    counts, absent = {}, {}
    for answer in ask(
        run.coordinator, run.transport, headers, b"", deadline_s=run.experiment.federation.deadline_s
    ):
        if answer.reply is None:
            absent[answer.site] = answer.reason
        else:
            counts[answer.site] = answer.reply.header.counts
    if absent:
        raise SiteAnswersError("describe", absent)
    return {site: counts[site] for site in sites}


def test_chosen(run: Run, best_round: int, sites: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """Each site's test scores of the chosen model: the one time that test cases are read. Raises SiteAnswersError."""
    state = load_checkpoint(run.store.checkpoints / f"round_{best_round:04d}").state
    scores, absent, _ = _evaluate(run, state, "test", sites)
    if absent:
        raise SiteAnswersError("evaluate", absent)
    return scores


def model_spec(experiment: Experiment) -> ModelSpec:
    """Names and shapes of the tensors that travel."""
    network = build_network(experiment.task, experiment.model, seed=0)
    return spec_of(get_weights(network), parameter_names(network))


def _restore(run: Run, algorithm: Algorithm, spec: ModelSpec) -> tuple[ServerState, list[Record]]:
    """State and history of the newest whole checkpoint, or round 0."""
    checkpoint = newest_checkpoint(
        run.store.checkpoints, on_torn=lambda why: run.store.event("torn", detail=why)
    )
    if checkpoint is not None:
        run.store.event("resumed", round=checkpoint.state.round)
        history = list(checkpoint.record["history"])
        scored = {e["round"]: e for e in run.store.events("evaluated")}
        return checkpoint.state, [r | _scores_of(scored.get(r["round"])) for r in history]
    seed = derive_seed(run.experiment.federation.seed, purpose="initial_weights")
    network = build_network(run.experiment.task, run.experiment.model, seed=seed)
    state = algorithm.init(get_weights(network), spec)
    save_checkpoint(run.store.checkpoints, state, {"history": []})
    return state, []


def _scores_of(event: Record | None) -> Record:
    """The part of an `evaluated` event that belongs into a round's record."""
    return {k: event[k] for k in ("validation_dice", "sites", "evaluation")} if event else {}


def _round(
    run: Run,
    algorithm: Algorithm,
    spec: ModelSpec,
    *,
    state: ServerState,
    described: Mapping[str, Mapping[str, int]],
) -> tuple[ServerState, Record]:
    """One round: ask the participants, add each update as it arrives, step."""
    number, federation = state.round + 1, run.experiment.federation
    attempt = run.next_attempt("round_started", number)
    participants = choose_participants(run.experiment, tuple(described), number)
    weights = integer_weights({site: described[site]["train_cases"] for site in participants})
    headers = {site: _train_header(run, site, number, attempt, state) for site in participants}
    accumulator, contributed, absent = algorithm.start(state, spec), {}, {}
    for answer in ask(
        run.coordinator,
        run.transport,
        headers,
        encode_tensors(state.weights),
        deadline_s=federation.deadline_s,
    ):
        try:
            update = _update_in(answer, spec, run.experiment, described[answer.site]["train_cases"])
            algorithm.add(accumulator, update, weights[answer.site])
        except UpdateError as error:
            absent[answer.site] = error.reason
            run.store.event("rejected", round=number, site=answer.site, reason=error.reason)
        else:
            contributed[answer.site] = _contribution(answer)
    _check_participation(run.experiment, number, contributed, absent, n_asked=len(participants))
    new_state, diagnostics = algorithm.finish(
        accumulator, state, counted=dict.fromkeys(contributed, (number, attempt))
    )
    cases = {site: c["cases"] for site, c in contributed.items()}
    record = {
        "round": number,
        "training_loss": sum(c["loss"] * cases[s] for s, c in contributed.items()) / sum(cases.values()),
        "contributed": dict(sorted(contributed.items())),
        "absent": dict(sorted(absent.items())),
        "diagnostics": diagnostics,
    }
    run.store.event("round_finished", attempt=attempt, **record)
    run.on_round(record)
    return new_state, record


def choose_participants(experiment: Experiment, sites: tuple[str, ...], round_number: int) -> tuple[str, ...]:
    """The sites of a round: all, or [federation] participants of them drawn by seed and round."""
    wanted = experiment.federation.participants
    if wanted is None or wanted >= len(sites):
        return tuple(sorted(sites))
    seed = derive_seed(experiment.federation.seed, round_number=round_number, purpose="participants")
    drawn = np.random.default_rng(seed).choice(sorted(sites), size=wanted, replace=False)
    return tuple(sorted(str(site) for site in drawn))


def _train_header(run: Run, site: str, number: int, attempt: int, state: ServerState) -> Header:
    counted_round, counted_attempt = state.counted.get(site, (0, 0))
    return run.header(
        "train", site, number, attempt, counted_round=counted_round, counted_attempt=counted_attempt
    )


def _update_in(answer: Answer, spec: ModelSpec, experiment: Experiment, expected_cases: int) -> ClientUpdate:
    """The checked update in an answer. Raises UpdateError, also for an absent site."""
    if answer.reply is None:
        raise UpdateError(answer.reason, f"site {answer.site} did not contribute")
    n_cases = answer.reply.header.counts.get("cases", 0)
    if n_cases != expected_cases:
        raise UpdateError(
            "bad_count", f"site {answer.site} counts {n_cases} cases, described were {expected_cases}"
        )
    tensors = decode_tensors(answer.reply.payload, spec)
    check_update(tensors, spec, max_norm=experiment.federation.max_update_norm)
    return ClientUpdate(answer.site, tensors, n_cases)


def _contribution(answer: Answer) -> Record:
    """What the record of a round says about a site that contributed."""
    assert answer.reply is not None
    header = answer.reply.header
    return {
        "cases": header.counts["cases"],
        "steps": header.counts.get("steps", 0),
        "loss": header.scalars.get("loss") or 0.0,
        "training_s": header.scalars.get("training_s") or 0.0,
        "seconds": round(answer.seconds, 3),
        "bytes_up": answer.bytes_up,
        "bytes_down": answer.bytes_down,
        "update_norm": header.scalars.get("update_norm"),
    }


def _check_participation(
    experiment: Experiment, number: int, contributed: Record, absent: Mapping[str, str], *, n_asked: int
) -> None:
    """Quorum and required sites hold, or an error names who is missing and why."""
    federation = experiment.federation
    missing = [f"{site} ({absent[site]})" for site in federation.required_sites if site in absent]
    if missing:
        raise RequiredSiteError(number, missing)
    quorum = min(federation.quorum or n_asked, n_asked)
    if len(contributed) < quorum or not contributed:
        raise QuorumError(
            number, len(contributed), quorum, [f"{s} ({why})" for s, why in sorted(absent.items())]
        )


def _evaluate_if_due(run: Run, state: ServerState, history: list[Record]) -> None:
    """Score the model of this round on validation, once, and keep the checkpoint if it is the best so far."""
    record = history[-1]
    every, total = run.experiment.evaluation.every_rounds, run.experiment.federation.rounds
    if (state.round % every and state.round != total) or "validation_dice" in record:
        return
    sites = tuple(run.transport.sites())
    scores, absent, traffic = _evaluate(run, state, "validation", sites)
    n_cases = {site: s["cases"] for site, s in scores.items()}
    dice = {site: s["dice"] for site, s in scores.items() if s["dice"] is not None}
    if not dice:
        raise SiteAnswersError("evaluate", absent)
    mean = sum(d * (n_cases[s] or 0) for s, d in dice.items()) / sum(n_cases[s] or 0 for s in dice)
    record |= {"validation_dice": mean, "sites": dict(sorted(dice.items())), "evaluation": traffic}
    run.store.event("evaluated", round=state.round, absent=absent, **_scores_of(record))
    prune_checkpoints(run.store.checkpoints, pinned={_best(history)})
    run.on_round(record)


def _evaluate(
    run: Run, state: ServerState, split: str, sites: tuple[str, ...]
) -> tuple[dict[str, dict[str, float | None]], dict[str, str], dict[str, int]]:
    """Scores of a model at each site, who did not answer, and what it took on the wire."""
    attempt = run.next_attempt(f"evaluating_{split}", state.round)
    headers = {site: run.header("evaluate", site, state.round, attempt, split=split) for site in sites}
    scores: dict[str, dict[str, float | None]] = {}
    absent, traffic = {}, {"bytes_down": 0, "bytes_up": 0}
    payload = encode_tensors(state.weights)
    deadline_s = run.experiment.federation.deadline_s
    for answer in ask(run.coordinator, run.transport, headers, payload, deadline_s=deadline_s):
        if answer.reply is None:
            absent[answer.site] = answer.reason
        else:
            scores[answer.site] = {**answer.reply.header.scalars, **answer.reply.header.counts}
        traffic["bytes_down"] += answer.bytes_down
        traffic["bytes_up"] += answer.bytes_up
    return scores, absent, traffic


def _best(history: list[Record]) -> int:
    """The round with the highest validation Dice; the first of equals."""
    scored = [r for r in history if "validation_dice" in r]
    return int(max(scored, key=lambda r: (r["validation_dice"], -r["round"]))["round"])
