"""How often a site answers: budgets that the ledger keeps, so that neither a restart nor a kill gives any away."""

from medseg_client.answered import Answered, charge
from medseg_client.policy import Policy
from medseg_core.errors import PolicyError, WireError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import Header, Kind


def require_budget(
    policy: Policy, kind: Kind, request: Header, *, request_sha256: str, answered: Answered
) -> None:
    """The task's budget has room, and the round was not scored for another model. Raises PolicyError, WireError.

    `kind` is what is charged: the request's own, or evaluate for the score that a train request asks for, too.
    `answered` is what was released so far. The same request is charged once, however often it was answered; so is
    a model scored again for the same round. A round may be scored for as many models as this site trained it for: a
    coordinator that lost it does it again.
    """
    charges = answered.charges(kind, request.task)
    key, limit = rule_for(policy, kind)
    own = charge(kind, request, request.model_sha256, request_sha256)
    if own not in charges and len(charges) >= limit:
        asked = f"{len(charges)} of task {request.task} were answered"
        raise PolicyError(RefusalCode.BUDGET_SPENT, key, asked, limit)
    if kind == "evaluate" and request.split == "validation" and request.scored_round is not None:
        _require_own_model(request, request.scored_round, answered)


def budget_left(policy: Policy, kind: Kind, task: str, answered: Answered) -> int:
    """How many more answers of a kind the policy gives to a task."""
    return max(0, rule_for(policy, kind)[1] - len(answered.charges(kind, task)))


def _require_own_model(request: Header, scored_round: int, answered: Answered) -> None:
    """The round that is scored has room for this model. Raises WireError."""
    others = answered.models_scored(request.run, scored_round) - {request.model_sha256}
    if len(others) >= max(1, len(answered.trainings(request.run, scored_round))):
        raise WireError(
            RefusalCode.BUDGET_SPENT,
            f"round {scored_round} of run {request.run} was scored for another model: one a round is answered",
        )


def rule_for(policy: Policy, kind: Kind) -> tuple[str, int]:
    """The rule for a kind of request, by name and value."""
    match kind:
        case "train":
            return "max_rounds", policy.max_rounds
        case "evaluate":
            return "max_evaluations", policy.max_evaluations
        case "describe" | "publish":  # neither gives more than counts
            return "max_describes", policy.max_describes
