"""How often a site answers: budgets that the ledger keeps, so that neither a restart nor a kill gives any away."""

from collections.abc import Iterable

from medseg_client.ledger import Entry
from medseg_client.policy import Policy
from medseg_core.errors import PolicyError, WireError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import SCORE, Header, Kind


def require_budget(
    policy: Policy, kind: Kind, request: Header, *, request_sha256: str, answers: Iterable[Entry]
) -> None:
    """The task's budget has room, and the round was not scored for another model. Raises PolicyError, WireError.

    `kind` is what is charged: the request's own, or evaluate for the score that a train request asks for, too.
    `answers` are the lines of what was released. The same request is charged once, however often it was answered; so is
    a model scored again for the same round. A round may be scored for as many models as this site trained it for: a
    coordinator that lost it does it again.
    """
    charges: set[object] = set()
    trainings: set[str | None] = set()
    models: set[str | None] = set()
    for entry in answers:
        found = entry.header
        assert found is not None
        if found.task == request.task and kind in _charged(found):
            charges.add(_charge(kind, found, entry.model_sha256, entry.request_sha256))
        if kind == "evaluate" and found.run == request.run:
            if found.kind == "train" and found.round == request.scored_round:
                trainings.add(entry.request_sha256)
            if found.split == "validation" and found.scored_round == request.scored_round:
                models |= {entry.model_sha256} if "evaluate" in _charged(found) else set()
    key, limit = _budget(policy, kind)
    own = _charge(kind, request, request.payload_sha256, request_sha256)
    if own not in charges and len(charges) >= limit:
        asked = f"{len(charges)} of task {request.task} were answered"
        raise PolicyError(RefusalCode.BUDGET_SPENT, key, asked, limit)
    models.discard(request.payload_sha256)
    if request.split == "validation" and len(models) >= max(1, len(trainings)):
        raise WireError(
            RefusalCode.BUDGET_SPENT,
            f"round {request.scored_round} of run {request.run} was scored for another model: one a round is answered",
        )


def _charged(answer: Header) -> set[Kind]:
    """What an answer is charged as: an update with a score is a training and an evaluation."""
    return {answer.kind, "evaluate"} if SCORE in answer.scalars else {answer.kind}


def _budget(policy: Policy, kind: Kind) -> tuple[str, int]:
    """The rule for a kind of request, by name and value."""
    match kind:
        case "train":
            return "max_rounds", policy.max_rounds
        case "evaluate":
            return "max_evaluations", policy.max_evaluations
        case "describe" | "publish":  # neither gives more than counts
            return "max_describes", policy.max_describes


def _charge(kind: Kind, header: Header, model_sha256: str | None, request_sha256: str | None) -> object:
    """What answers must have in common to be charged once."""
    if kind == "evaluate":
        return header.run, header.scored_round, header.split, model_sha256
    return request_sha256
