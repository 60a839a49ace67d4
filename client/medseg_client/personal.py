"""What is a site's own of a model: tensors that neither come nor go, a whole model beside the global one, fine-tuning.

It is kept here and never sent; of a whole model of its own a site tells test scores.
"""

import json
from pathlib import Path

import numpy as np

from medseg_client.site_state import SiteState
from medseg_core.assessment.evaluation import TestResult, site_figures
from medseg_core.config import Experiment
from medseg_core.errors import DivergedError
from medseg_core.federation.algorithms.base import Algorithm
from medseg_core.federation.codec import encode_tensors
from medseg_core.federation.shared_tensors import initial_network
from medseg_core.federation.update import ModelSpec, Tensors
from medseg_core.learning.weights import Kinds, Weights, get_weights
from medseg_core.seeding import derive_seed
from medseg_core.wire.header import PERSONAL, Header

# beside the stored answer to the test of a run:
PERSONAL_WEIGHTS = (
    "personal.safetensors"  # what takes the place of the tensors of the published model, or joins them
)
PERSONAL_CASES = "personal_cases.json"  # scores under the site's own model


def own_part(state: SiteState, run: str) -> Path | None:
    """The file of what is this site's own of a run's model; None where nothing is, or it was not tested here."""
    tested = state.test_folder(run)
    path = tested / PERSONAL_WEIGHTS if tested else None
    return path if path and path.is_file() else None


def own_weights(algorithm: Algorithm, experiment: Experiment, spec: ModelSpec, memory: Kinds) -> Weights:
    """The site's own tensors as of a counted round; before the first, those of the initial network.

    All tensors where the site has a whole model beside the global one; none where nothing is its own.
    `spec` is of those that travel.
    """
    if not algorithm.personalises:
        return {}
    if "personal" in memory:
        return dict(memory["personal"])
    initial = get_weights(initial_network(experiment))
    local = {name: tensor for name, tensor in initial.items() if name not in spec.tensors}
    return local or initial


def whole(shared: Tensors, own: Weights, spec: ModelSpec) -> Weights:
    """The tensors that came, joined by the site's own where none comes."""
    return {**shared, **{name: tensor for name, tensor in own.items() if name not in spec.tensors}}


def require_finite(own: Tensors, request: Header) -> None:
    """Raises DivergedError where what is the site's own after a round holds numbers that are not finite."""
    if not all(np.isfinite(tensor).all() for tensor in own.values()):
        raise DivergedError(request.site, request.round)


def fine_tuning_of(experiment: Experiment) -> Experiment | None:
    """How a site trains on after the run: as one round of its own, with the whole schedule; None: it does not."""
    federation = experiment.federation
    if not federation.fine_tuning.epochs:
        return None
    changes = {
        "rounds": 1,
        "local_epochs": federation.fine_tuning.epochs,
        "seed": derive_seed(federation.seed, purpose="fine_tuning"),  # other patches than round 1 had
    }
    return experiment.model_copy(update={"federation": federation.model_copy(update=changes)})


def told_and_kept(
    shared: TestResult, personal: TestResult | None, own: Weights, experiment: Experiment
) -> tuple[dict[str, float | None], dict[str, bytes]]:
    """What a site tells of the test, and the files that it keeps of it: scores of cases, pictures, its own tensors.

    `personal` are the scores of its own model, where it has a whole one.
    """
    told = site_figures(shared.cases, experiment)
    kept = {f"{name}.npz": picture for name, picture in shared.overlays.items()}
    kept["cases.json"] = _cases_json(shared)
    if personal is not None:
        figures = site_figures(personal.cases, experiment)
        told |= {f"{PERSONAL}{name}": value for name, value in figures.items()}
        kept[PERSONAL_CASES] = _cases_json(personal)
    if own:
        kept[PERSONAL_WEIGHTS] = encode_tensors(own)
    return told, kept


def _cases_json(result: TestResult) -> bytes:
    return json.dumps([case.to_json() for case in result.cases]).encode()
