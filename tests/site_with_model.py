"""A hospital that approved a model for volumes, with the smallest network and untrained weights."""

from pathlib import Path
from typing import Any

from builders import make_experiment
from joined_site import make_joined_site
from trained_model import initial_weights, make_summary

from medseg_client.models import models_of
from medseg_client.site_folder import SiteFolder
from medseg_core.config import Experiment
from medseg_core.learning.model_package import write_model
from medseg_core.learning.scope import Moments, Scope
from medseg_core.learning.signed_model import pack_model, sign_model, unpack_model

RUN = "run-7"
SURE = Moments(n=9, mean=0.9, sd=0.1)  # threshold 1.1: no case is flagged
ANY = Moments(n=9, mean=0.0, sd=100.0)  # no case is outside
UNSURE = Moments(n=9, mean=-0.0, sd=0.0)  # threshold 0: every case that any view changes is


def volume_experiment(patch_size: tuple[int, ...] = (16, 16, 16), **task: Any) -> Experiment:
    """A 3D task on CT; `task` may say more. It asks for a grid that is not the scanner's unless that says otherwise."""
    return make_experiment(
        task={
            "name": "organs",
            "spatial_dims": 3,
            "channels": [{"name": "ct", "modality": "CT"}],
            "labels": {"organ": 1, "lesion": 2},
            "spacing_mm": [1.0, 1.0, 2.0],
            "codes": {"organ": {"type": ("10200004", "SCT", "Liver")}},
            **task,
        },
        training={"patch_size": list(patch_size)},
    )


def scope_of(uncertainty: Moments = SURE, **others: Moments) -> Scope:
    """What was learned with the model; `spacing__0` stands for `spacing/0`."""
    named = {name.replace("__", "/"): found for name, found in {"p50__0": ANY, **others}.items()}
    return Scope(moments={"uncertainty": uncertainty, **named}, sites={"training": 2, "validation": 2})


def make_site_with_model(root: Path, scope: Scope | None = None, **changes: Any) -> SiteFolder:
    """The site's folder; the model is approved. `changes` are those of `volume_experiment`."""
    experiment = volume_experiment(**changes)
    server, site = make_joined_site(root)
    made = root / "made"
    write_model(made, experiment, initial_weights(experiment), make_summary(experiment, run=RUN), scope)
    sign_model(made, RUN, server.coordinator().key)
    models = models_of(site)
    models.keep(RUN, unpack_model(pack_model(made)))
    models.approve(RUN)
    return site
