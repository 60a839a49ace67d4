"""What agreeing to an experiment means for a hospital, in words; and experiments that come with a request."""

import tomllib
from collections.abc import Iterator

from medseg_client.policy import Policy
from medseg_core.config import Experiment, experiment_sha256, parse_experiment
from medseg_core.errors import ExperimentFileError, WireError
from medseg_core.federation.shared_tensors import count_numbers
from medseg_core.wire.codes import RefusalCode

EXPERIMENT_BYTES_MAX = 64 * 1024  # the longest preset has 4 kB

_STATISTICS = {
    "training": "loss, seconds and norm of the update",
    "validation": "mean Dice of the global model on the validation cases",
    "test": "means and intervals over the test cases, once a run, by metric and label",
    "site": "device, software versions, median spacing and size of the images, limits of this site's rules",
}


def words(experiment: Experiment, policy: Policy) -> Iterator[str]:
    """Lines that say what would be trained and what would leave. Raises PolicyError: this site would refuse it."""
    task, federation = experiment.task, experiment.federation
    n_numbers, n_staying = count_numbers(experiment)
    policy.require_experiment(experiment, n_numbers)
    megabytes = 4 * n_numbers / 1e6
    n_scored = -(-federation.rounds // experiment.evaluation.every_rounds)
    channels = ", ".join(
        f"{c.name} ({c.modality}{', may be missing' if c.optional else ''})" for c in task.channels
    )
    yield f"Task {task.name}: find {', '.join(task.labels)} in {task.spatial_dims}D images of {channels}."
    yield f"Network {experiment.model.name}: {n_numbers:,} numbers, {megabytes:.3g} MB."
    yield (
        f"Training here: {federation.algorithm}, at most {federation.rounds} rounds; in each, this site's training "
        f"cases {federation.local_epochs} times over."
    )
    yield "What leaves this site, checked and entered in its ledger:"
    yield "- once: how many cases and patients there are to train, validate and test on"
    if "site" in policy.statistics:
        yield f"- with that, whenever a run begins or resumes: {_STATISTICS['site']}"
    clip = f", scaled down to norm {policy.max_update_norm:g}" if policy.max_update_norm else ""
    codec = experiment.codec.name
    written = f"{megabytes:.3g} MB" + ("" if codec == "fp32" else f" before {codec} shortens them")
    yield f"- each round: by how much training moved the {n_numbers:,} numbers ({written}){clip}"
    yield f"- each round: how many cases and steps{_and('training', policy)}"
    if n_staying:
        yield f"- never: {n_staying:,} more numbers of the network; every site has its own of those"
    if "validation" in policy.statistics:
        yield f"- at most {n_scored} times: {_STATISTICS['validation']}"
    if "test" in policy.statistics:
        yield f"- at the end: {_STATISTICS['test']}"
        if federation.has_personal_models:
            yield "- with that: the same of this site's own model, which is not sent"
        if "site" in policy.statistics:
            yield "- with that: mean and deviation, over training cases, of their spacing and percentiles of intensity"
        if "validation" in policy.statistics:
            yield "- with that: mean and deviation, over validation cases, of how unsure the model is"
    if epochs := federation.fine_tuning.epochs:
        yield f"For itself this site then trains the chosen model {epochs} times more over its training cases."
    yield "No image, label map, name or case identifier leaves."
    yield (
        f"Kept back: updates from fewer than {policy.min_patients_update} patients, scores from fewer than "
        f"{policy.min_patients_score}{_kept(policy)}."
    )
    if federation.rounds > policy.max_rounds:
        yield f"This site would stop after {policy.max_rounds} rounds: [policy] max_rounds."


def experiment_in(payload: bytes, sha256: str) -> Experiment:
    """The experiment whose resolved TOML a request carries, if it has this hash. Raises WireError."""
    if len(payload) > EXPERIMENT_BYTES_MAX:
        raise WireError(RefusalCode.TOO_LARGE, f"an experiment of {len(payload)} bytes")
    try:
        experiment = parse_experiment(tomllib.loads(payload.decode()), source="the coordinator's request")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ExperimentFileError) as error:
        raise WireError(RefusalCode.MALFORMED, f"no experiment: {error}"[:500]) from None
    if experiment_sha256(experiment) != sha256:
        raise WireError(RefusalCode.MALFORMED, "the experiment is not the one that the request names")
    return experiment


def _and(name: str, policy: Policy) -> str:
    return f", {_STATISTICS[name]}" if name in policy.statistics else ""


def _kept(policy: Policy) -> str:
    """What the policy's `statistics` leave out."""
    return "".join(f"; {text}" for name, text in _STATISTICS.items() if name not in policy.statistics)
