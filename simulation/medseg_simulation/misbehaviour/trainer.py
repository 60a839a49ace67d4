"""A virtual site that misbehaves: a real trainer that learns otherwise, or misses rounds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from medseg_client.trainer import MAX_REQUEST_BYTES, Trained, Trainer
from medseg_core.cohort.patches import steps_in_pass
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import KEEP_TENSORS, Experiment
from medseg_core.errors import DivergedError, WireError
from medseg_core.federation.shared_tensors import shared_spec
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.local_training import RoundContext, train_locally
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope
from medseg_simulation.misbehaviour.conduct import Misconduct
from medseg_simulation.misbehaviour.images import with_gamma
from medseg_simulation.misbehaviour.updates import Tampering, tamper_of

ABSENCES = {
    "drop_out": "not_connected",
    "straggler": str(RefusalCode.DEADLINE),
}  # as Flower's transport tells them


class MisbehavingTrainer(Trainer):
    """A trainer whose answers are wrong in one way. What it sends passes the guard, and its keys are its own.

    That its guard refuses an update of NaN is no fault of the simulation: the site is absent then, as diverged.
    """

    def __init__(self, misconduct: Misconduct, *who: Any, **how: Any) -> None:
        super().__init__(*who, **how)
        self._misconduct = misconduct
        self.learn = self._learn_otherwise
        if misconduct.faults.kind == "nan":
            self.on_fault = _all_but_diverged(self.on_fault)

    def handle(
        self, request_bytes: bytes | bytearray, *, is_over: Callable[[], bool] = lambda: False
    ) -> bytes:
        """The real answer; WireError with the reason of an absence in a round of training that the site misses.

        Whether the answer of a straggler is made or not changes nothing: a site's state counts only with its update.
        """
        absence = ABSENCES.get(self._misconduct.faults.kind)
        if absence is not None:
            request = Envelope.from_bytes(request_bytes, max_bytes=MAX_REQUEST_BYTES).header
            if request.kind == "train" and self._misconduct.misses(request.round):
                raise WireError(absence, f"{request.site} misses round {request.round}")
        return super().handle(request_bytes, is_over=is_over)

    def _learn_otherwise(
        self,
        network: nn.Module,
        cases: Sequence[PreprocessedCase],
        experiment: Experiment,
        *,
        context: RoundContext,
        rule: LocalRule,
        **how: Any,
    ) -> Trained:
        """As `train_locally`, with what this site does wrong; a model of its own suffers from wrong data alone.

        A free rider looks at one case, for a loss that it can tell, and says that it had looked at all of them; where
        tensors of the network are its own, it does train, and sends nothing of it.
        """
        faults, number, claimed = self._misconduct.faults, context.round_number, len(cases)
        if faults.kind == "drift":
            gamma = faults.gamma ** self._misconduct.progress(number)
            cases = [with_gamma(case, gamma) for case in cases]
        if not rule.is_sent:
            return train_locally(network, cases, experiment, context=context, rule=rule, **how)
        if (tamper := tamper_of(faults, self._misconduct.rng(number))) is not None:
            rule = Tampering(rule, tamper, shared_spec(experiment, network).tensors)
        if faults.kind == "free_rider" and experiment.federation.algorithm not in KEEP_TENSORS:
            cases = cases[:1]
        report, optimiser = train_locally(network, cases, experiment, context=context, rule=rule, **how)
        passes = experiment.federation.local_epochs + rule.extra_passes
        n_steps = passes * steps_in_pass(claimed, experiment.training.batch_size)
        return replace(report, n_cases=claimed, n_steps=n_steps), optimiser


def _all_but_diverged(told: Callable[[Exception], None]) -> Callable[[Exception], None]:
    """Tells of every fault but of training that diverged."""
    return lambda error: None if isinstance(error, DivergedError) else told(error)
