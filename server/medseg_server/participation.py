"""Who takes part in a round, how much each counts, and what the record of the round says of it."""

from collections.abc import Mapping

import numpy as np

from medseg_core.cohort.patches import steps_in_pass
from medseg_core.config import Experiment
from medseg_core.errors import UpdateError
from medseg_core.seeding import derive_seed
from medseg_core.wire.header import GAIN
from medseg_server.evaluating import Described
from medseg_server.requests import Answer
from medseg_server.run import Record


def choose_participants(experiment: Experiment, sites: tuple[str, ...], round_number: int) -> tuple[str, ...]:
    """The sites of a round: all, or [federation] participants of them; cyclic: one in turn.

    Required sites are always among them; the others are drawn by seed and round.
    """
    federation = experiment.federation
    if federation.algorithm == "cyclic":
        return (sorted(sites)[(round_number - 1) % len(sites)],)
    wanted = federation.participants
    if wanted is None or wanted >= len(sites):
        return tuple(sorted(sites))
    required = set(federation.required_sites) & set(sites)
    seed = derive_seed(federation.seed, round_number=round_number, purpose="participants")
    others, n_others = sorted(set(sites) - required), wanted - len(required)
    drawn = np.random.default_rng(seed).choice(others, size=n_others, replace=False)
    return tuple(sorted(required | {str(site) for site in drawn}))


def turns(experiment: Experiment, sites: tuple[str, ...], round_number: int) -> tuple[tuple[str, ...], ...]:
    """Who is asked to train in a round: the participants, and where those may be absent who stands in, in turn.

    Only `cyclic` has stand-ins: with a quorum the model goes on to the next site where the one whose turn it is does
    not contribute.
    """
    first = choose_participants(experiment, sites, round_number)
    if experiment.federation.algorithm != "cyclic" or experiment.federation.quorum is None:
        return (first,)
    names = sorted(sites)
    at = names.index(first[0])
    return tuple((site,) for site in names[at:] + names[:at])


def steps_of_round(experiment: Experiment, n_cases: int) -> int:
    """How many steps a site with so many training cases takes in a round."""
    federation = experiment.federation
    passes = federation.local_epochs + (
        federation.fedrep.head_epochs if federation.algorithm == "fedrep" else 0
    )
    return passes * steps_in_pass(n_cases, experiment.training.batch_size)


def weights_of(experiment: Experiment, described: Described) -> dict[str, int]:
    """How much each site counts, as [federation] weights says."""
    match experiment.federation.weights:
        case "cases":
            return {site: counts["train_cases"] for site, counts in described.items()}
        case "voxels":
            return {site: counts["train_voxels"] for site, counts in described.items()}
        case "equal" | "validation_gain":  # a gain is known with the update
            return dict.fromkeys(described, 1)


def weight_by_gain(answer: Answer) -> int:
    """In thousandths of Dice by which a site's training helps on its validation cases, at least 1.

    Raises UpdateError where a site does not tell it.
    """
    assert answer.reply is not None
    gain = answer.reply.header.scalars.get(GAIN)
    if gain is None or not -1 <= gain <= 1:
        raise UpdateError("missing_figure", f"site {answer.site} tells no gain on validation to weigh it by")
    return max(1, round(1000 * gain))


def contribution(answer: Answer, update_norm: float) -> Record:
    """What the record of a round says about a site that contributed; the norm is of the update that came."""
    assert answer.reply is not None
    header = answer.reply.header
    ledger = (
        {} if header.ledger_head is None else {"ledger_head": header.ledger_head}
    )  # a simulated site has none
    return {
        "cases": header.counts["cases"],
        "steps": header.counts.get("steps", 0),
        "loss": header.scalars.get("loss"),  # None where a site keeps its figures of training
        "training_s": header.scalars.get("training_s") or 0.0,
        "seconds": round(answer.seconds, 3),
        "bytes_up": answer.bytes_up,
        "bytes_down": answer.bytes_down,
        "update_norm": update_norm,
        **ledger,
    }


def participation(contributed: Mapping[str, Record], absent: Mapping[str, str]) -> Record:
    """Who took part in a round, who did not and why, and the loss: a mean over the cases of the sites that tell it."""
    told = [facts for facts in contributed.values() if facts["loss"] is not None]
    n_cases = sum(facts["cases"] for facts in told)
    loss = sum(facts["loss"] * facts["cases"] for facts in told)
    return {
        "training_loss": loss / n_cases if n_cases else None,
        "contributed": dict(sorted(contributed.items())),
        "absent": dict(sorted(absent.items())),
    }
