"""The data side of a site: a signed request in, a signed reply out. The only code of a federation that sees images."""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from medseg_client.approval import experiment_in
from medseg_client.egress import EgressGuard, Question
from medseg_client.fault_codes import code_of
from medseg_client.held_models import HeldModels
from medseg_client.model_scope import SCOPE_FILE, scope_patients, scope_told
from medseg_client.models import Models
from medseg_client.personal import fine_tuning_of, own_weights, require_finite, told_and_kept, whole
from medseg_client.site_data import SiteData, case_counts, count_patients
from medseg_client.site_facts import facts_as_scalars
from medseg_client.site_state import SiteState
from medseg_core.assessment.evaluation import evaluate_test, validation_dice
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment
from medseg_core.errors import (
    DivergedError,
    MedsegError,
    OutOfMemoryError,
    PolicyError,
    UpdateError,
    WireError,
)
from medseg_core.federation.algorithms import build_algorithm
from medseg_core.federation.codecs import build_codec
from medseg_core.federation.shared_tensors import count_numbers, shared_spec
from medseg_core.federation.update import MODEL, ModelSpec, Tensors, delta
from medseg_core.files import sha256_of
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.local_training import RoundContext, TrainingReport, device_guard, train_locally
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import Weights, get_weights, set_weights
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope, verify
from medseg_core.wire.header import GAIN, SCORE, SCORED_CASES, Header

MAX_REQUEST_BYTES = 2**31  # half a billion float32 parameters
Trained = tuple[TrainingReport, dict[str, npt.NDArray[np.float32]]]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SiteIdentity:
    """Who this site is and whom it obeys. The key that it signs with is the egress guard's."""

    name: str
    coordinator: Ed25519PublicKey


class Trainer:
    """One site. Answers each request once: the same request again gets the same bytes, a conflicting one a refusal.

    `approved` maps the hash of an experiment that the site agreed to, to the experiment; `approve` adds one whose task
    the policy approves. `data_of` prepares the site's cases for an experiment. `models` keeps what the coordinator
    publishes. `on_fault` is told the detail of every refusal, for the site's own log; the coordinator sees a code.
    `learn` is how it trains: `train_locally`, but at a site that a simulation makes misbehave.
    """

    def __init__(
        self,
        identity: SiteIdentity,
        state: SiteState,
        guard: EgressGuard,
        *,
        approved: Mapping[str, Experiment],
        data_of: Callable[[Experiment], SiteData],
        device: torch.device,
        models: Models | None = None,
        on_fault: Callable[[Exception], None] = lambda error: log.error("refused: %s", error),
        approve: Callable[[Experiment], object] = lambda experiment: None,
    ) -> None:
        self._identity, self._state, self._guard, self._device = identity, state, guard, device
        self._approved, self._data_of, self._models = approved, data_of, models
        self._held = HeldModels(state.folder)
        self.on_fault, self._approve = on_fault, approve
        self._built: tuple[Experiment, torch.nn.Module, ModelSpec] | None = None
        self._way: tuple[Experiment | None, int] = None, 0  # which of `_ways_to_train` has memory enough
        self._attempts: dict[tuple[str, str, int], int] = {}  # latest asked for, by run, kind, round
        self._at_work: set[str] = set()  # nonces
        self._one_at_a_time = threading.Lock()
        self.learn: Callable[..., Trained] = train_locally

    def handle(
        self, request_bytes: bytes | bytearray, *, is_over: Callable[[], bool] = lambda: False
    ) -> bytes:
        """The reply or refusal to a request.

        Training ends at the next step once `is_over`, or once a later attempt at the same round was asked for.

        Raises WireError for bytes that are not an envelope of the coordinator for this site, and where not even a
        refusal can be entered in the ledger: those get no answer; and for a request that is being worked on (working):
        it can be repeated until its reply is there.
        """
        envelope = Envelope.from_bytes(request_bytes, max_bytes=MAX_REQUEST_BYTES)
        verify(envelope, self._identity.coordinator)
        request = envelope.header
        if request.site != self._identity.name or request.direction != "request":
            raise WireError(
                RefusalCode.FOREIGN_SITE, f"request for {request.site!r} at {self._identity.name!r}"
            )
        question = Question(request, bytes(envelope.payload), sha256_of(request_bytes))
        with self._at_work_on(request):
            try:
                return self._answer(
                    question, lambda: is_over() or self._latest_attempt(request) > request.attempt
                )
            except Exception as error:  # the edge of the site: what leaves is a code, whatever happened
                no_fault = code_of(error) == RefusalCode.MODEL_NOT_HELD  # the model comes whole, then
                (log.info if no_fault else self.on_fault)(error)
                return self._refuse(question, code_of(error))

    def turn_away(self, data: bytes | bytearray, error: WireError) -> None:
        """Note bytes that get no answer but the code of an error; a request that is at work gets its answer later."""
        self.on_fault(error)
        if error.code == RefusalCode.WORKING:
            return
        try:
            self._guard.turn_away(data, RefusalCode(error.code))
        except MedsegError as fault:  # the code leaves all the same: nothing of the site is in it
            self.on_fault(fault)

    @contextmanager
    def _at_work_on(self, request: Header) -> Iterator[None]:
        """One request at a time, others wait. Raises WireError (working) for one that waits or is worked on already."""
        if request.nonce in self._at_work:
            raise WireError(RefusalCode.WORKING, f"{request.kind} of round {request.round} again, too early")
        self._at_work.add(request.nonce)
        self._attempts[request.run, request.kind, request.round] = max(
            request.attempt, self._latest_attempt(request)
        )
        try:
            with self._one_at_a_time:
                yield
        finally:
            self._at_work.discard(request.nonce)

    def _latest_attempt(self, request: Header) -> int:
        """The highest attempt at a request's kind and round that this process was asked for."""
        return self._attempts.get((request.run, request.kind, request.round), 0)

    def _refuse(self, question: Question, code: RefusalCode) -> bytes:
        """A signed refusal. Raises WireError where the ledger cannot take it."""
        try:
            return self._guard.release_refusal(question, code).to_bytes()
        except Exception as error:
            self.on_fault(error)
            raise WireError(code, "the refusal could not be entered in the ledger") from error

    def _answer(self, question: Question, is_over: Callable[[], bool]) -> bytes:
        """The stored reply of a repeated request, or a new one."""
        request = question.header
        if (stored := self._state.recall(request, question.sha256)) is not None:
            return self._guard.release_again(question, stored)
        experiment = self._agreed(question)
        self._guard.require_allowed(question)
        torch.set_num_threads(experiment.training.cpu_threads)
        with device_guard(self._device, experiment.training):
            match request.kind:
                case "train":
                    return self._train(question, experiment, is_over)
                case "evaluate":
                    return self._evaluate(question, experiment, is_over)
                case "describe":
                    return self._describe(question, experiment)
                case "publish":
                    return self._publish(question, experiment)

    def _agreed(self, question: Question) -> Experiment:
        """The experiment that a request names, if this site agreed to it and to this round. Raises WireError."""
        request, policy = question.header, self._guard.policy
        known = self._approved.get(request.experiment_sha256)
        experiment = known or self._of_approved_task(question)
        if request.task != experiment.task.name or (request.kind == "train" and request.round == 0):
            raise WireError(
                RefusalCode.MALFORMED, f"{request.kind} of round {request.round} of task {request.task!r}"
            )
        if request.round > (rounds := experiment.federation.rounds):
            raise WireError(RefusalCode.BUDGET_SPENT, f"round {request.round} of {rounds} that were agreed")
        if policy is not None:
            policy.require_experiment(experiment, count_numbers(experiment)[0])
        if known is None:
            self._approve(experiment)
        return experiment

    def _of_approved_task(self, question: Question) -> Experiment:
        """The experiment that came with a description's request, if policy approves its task. Raises WireError."""
        request, policy = question.header, self._guard.policy
        if request.kind == "describe" and policy and request.task in policy.approve_tasks:
            return experiment_in(question.payload, request.experiment_sha256)
        raise WireError(
            RefusalCode.UNKNOWN_EXPERIMENT, f"experiment {request.experiment_sha256} is not approved"
        )

    def _describe(self, question: Question, experiment: Experiment) -> bytes:
        """How many cases and patients this site has, by purpose; and what it tells of itself, if it has a policy."""
        data = self._data_of(experiment)
        counts = case_counts(data, experiment)
        reply = self._guard.release_figures(
            question,
            counts=counts,
            scalars=facts_as_scalars(data, self._device, self._guard, question.header.task),
            n_patients=counts["train_patients"],
        ).to_bytes()
        self._state.commit(question.header, question.sha256, reply)
        return reply

    def _train(self, question: Question, experiment: Experiment, is_over: Callable[[], bool]) -> bytes:
        """Train for a round from the model sent and the state last counted; reply with the difference.

        And with the model's validation score, where the request asks for it and policy allows.
        """
        request, data = question.header, self._data_of(experiment)
        cases = data.train
        self._guard.require_allowed(question, n_patients := count_patients(cases))
        network, spec = self._network(experiment)
        algorithm, keeps_optimiser = build_algorithm(experiment), experiment.federation.optimiser_memory
        codec = build_codec(experiment)
        feeds_back = codec is not None and codec.error_feedback
        remembers = algorithm.remembers or algorithm.personalises or keeps_optimiser or feeds_back
        memory = self._state.memory_at(request) if remembers else {}
        received = self._held.receive(request, question.payload, experiment, spec)
        own = own_weights(algorithm, experiment, spec, memory)
        start = whole(received[MODEL], own, spec)
        before = self._score_before_training(question, experiment, data, start)
        rule = algorithm.local_rule(received, memory)
        context = RoundContext(request.site, request.round)
        fit = partial(self._fit, experiment, cases, context=context, is_over=is_over)
        report, optimiser = fit(start=start, rule=rule, memory=memory.get("optimiser"))
        trained = get_weights(network)
        scores = self._scores_told(question, experiment, data, before)
        kept: dict[str, Tensors] = {"optimiser": optimiser} if keeps_optimiser else {}
        if (personal_rule := algorithm.personal_rule(received)) is not None:
            more, optimiser = fit(start=own, rule=personal_rule, memory=memory.get("personal_optimiser"))
            report = replace(report, training_s=report.training_s + more.training_s)
            kept |= {"personal": get_weights(network)}
            kept |= {"personal_optimiser": optimiser} if keeps_optimiser else {}
        elif own:
            kept |= {"personal": {name: trained[name] for name in own}}
        require_finite(kept.get("personal", {}), request)
        update = delta({name: trained[name] for name in spec.tensors}, received[MODEL])
        try:
            envelope, arriving, left_over = self._guard.release_update(
                question,
                update,
                spec,
                counts={"cases": report.n_cases, "steps": report.n_steps}
                | ({SCORED_CASES: len(data.validation)} if SCORE in scores else {}),
                scalars={"loss": report.loss, "training_s": report.training_s, "waiting_s": report.waiting_s}
                | scores,
                n_patients=n_patients,
                scored_patients=count_patients(data.validation),
                others=rule.uploads,
                declared=algorithm.uploads,
                codec=codec,
                late=memory.get("left_over", {}),
                agreed_norm=experiment.federation.max_update_norm,
            )
        except UpdateError as error:  # names and shapes are the network's own: the numbers are not finite
            raise DivergedError(request.site, request.round) from error
        rule.released(arriving)
        kept |= {**rule.memory, **({"left_over": left_over} if left_over else {})}
        self._state.commit(request, question.sha256, reply := envelope.to_bytes(), memory=kept)
        return reply

    def _score_before_training(
        self, question: Question, experiment: Experiment, data: SiteData, weights: Weights
    ) -> tuple[float | None] | None:
        """Validation Dice of the model sent; None where it is not asked for, or this site keeps it."""
        if question.header.split is None and experiment.federation.weights != "validation_gain":
            return None
        try:
            self._guard.require_score_allowed(question, count_patients(data.validation))
        except (PolicyError, WireError) as error:
            log.warning("no score leaves with the update: %s", error)
            return None
        network, _ = self._network(experiment)
        set_weights(network, weights)
        return (validation_dice(network, data.validation, experiment),)

    def _scores_told(
        self, question: Question, experiment: Experiment, data: SiteData, before: tuple[float | None] | None
    ) -> dict[str, float | None]:
        """The scores that go with an update: of the model that came, and the gain over it of the one just trained."""
        if before is None:
            return {}
        (dice,) = before
        scores = {SCORE: dice} if question.header.split else {}
        if experiment.federation.weights == "validation_gain":
            after = validation_dice(self._network(experiment)[0], data.validation, experiment)
            scores[GAIN] = None if dice is None or after is None else after - dice
        return scores

    def _fit(
        self,
        experiment: Experiment,
        cases: Sequence[PreprocessedCase],
        *,
        context: RoundContext,
        start: Weights,
        rule: LocalRule,
        memory: Tensors | None = None,
        recipe: Experiment | None = None,
        is_over: Callable[[], bool],
    ) -> Trained:
        """Train the network from `start`, by the experiment or another recipe for the same network.

        Where the device cannot hold that, once more in a way that needs less memory; so from then on.
        """
        network, _ = self._network(experiment)
        train = partial(self.learn, network, cases, recipe or experiment, context=context, start=start)
        train = partial(train, rule=rule, memory=memory, is_over=is_over)
        ways = self._ways_to_train(experiment)
        known, first = self._way
        for number in range(first if known is experiment else 0, len(ways)):
            try:
                trained = train(**ways[number][1])
            except OutOfMemoryError as error:
                if number + 1 == len(ways):
                    raise
                log.warning("%s Trying again %s.", error, ways[number + 1][0])
            else:
                self._way = experiment, number
                return trained
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        raise AssertionError("the last way returns or raises")

    def _ways_to_train(self, experiment: Experiment) -> list[tuple[str, dict[str, Any]]]:
        """Each needs less memory than the one before it; how the log says so."""
        ways: list[tuple[str, dict[str, Any]]] = [("", {})]
        if self._device.type == "cuda":
            ways.append(("without recording a step, the same but slower", {"record": False}))
        if experiment.training.batch_size > 1:
            ways.append(("with every batch in two parts, each with a loss of its own", {"parts": 2}))
        return ways

    def _evaluate(self, question: Question, experiment: Experiment, is_over: Callable[[], bool]) -> bytes:
        """Score the model sent on validation or, once a run, on the test cases; there the site's own model, too."""
        request, model_sha256 = question.header, str(question.header.model_sha256)
        if request.split == "test" and (self._state.tested_model(request) or model_sha256) != model_sha256:
            raise WireError(
                RefusalCode.BUDGET_SPENT, f"run {request.run} has read the test cases for another model"
            )
        data, attachments = self._data_of(experiment), {"model.sha256": model_sha256.encode()}
        cases = data.validation if request.split == "validation" else data.test
        self._guard.require_allowed(question, n_patients := count_patients(cases))
        network, spec = self._network(experiment)
        algorithm = build_algorithm(experiment)
        model = self._held.receive(request, question.payload, experiment, spec)[MODEL]
        own = own_weights(
            algorithm, experiment, spec, self._state.memory_at(request) if algorithm.personalises else {}
        )
        set_weights(network, weights := whole(model, own, spec))
        if request.split == "validation":
            scalars: dict[str, float | None] = {"dice": validation_dice(network, cases, experiment)}
        else:
            shared, personal = evaluate_test(network, cases, experiment), None
            scope = scope_told(request, self._guard, network, data, experiment)
            if (recipe := fine_tuning_of(experiment)) is not None:
                fit = partial(self._fit, experiment, data.train, recipe=recipe, is_over=is_over)
                fit(context=RoundContext(request.site, 1), start=weights, rule=LocalRule(is_sent=False))
                require_finite(own := get_weights(network), request)
            if experiment.federation.has_personal_models:
                set_weights(network, own)
                personal = evaluate_test(network, cases, experiment)
            scalars, kept = told_and_kept(shared, personal, own, experiment)
            scalars |= scope
            attachments |= {**kept, SCOPE_FILE: json.dumps(scope).encode()}
        reply = self._guard.release_figures(
            question,
            counts={"cases": len(cases)},
            scalars=scalars,
            n_patients=n_patients,
            labels=tuple(experiment.task.labels),
            scope_patients=scope_patients(data),
        ).to_bytes()
        self._state.commit(request, question.sha256, reply, attachments=attachments)
        return reply

    def _publish(self, question: Question, experiment: Experiment) -> bytes:
        """Keep the final model of a run, unapproved; the receipt holds counts alone."""
        if self._models is None:
            raise WireError(RefusalCode.MALFORMED, "this site keeps no models")
        n_files = self._models.receive(question.header, question.payload, self._network(experiment)[1])
        counts = {"files": n_files, "bytes": len(question.payload)}
        reply = self._guard.release_figures(question, counts=counts, scalars={}, n_patients=0).to_bytes()
        self._state.commit(question.header, question.sha256, reply)
        return reply

    def _network(self, experiment: Experiment) -> tuple[torch.nn.Module, ModelSpec]:
        """The experiment's network on this site's device, and names and shapes of its tensors that travel.

        Built once: the weights come with each request.
        """
        if self._built is None or self._built[0] is not experiment:
            network = build_network(experiment.task, experiment.model, seed=0).to(self._device)
            self._built = experiment, network, shared_spec(experiment, network)
        return self._built[1:]
