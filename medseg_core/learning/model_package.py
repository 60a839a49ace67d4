"""The model that a run ends with: a folder that `predict` needs, and nothing else.

| file | holds |
| --- | --- |
| model.safetensors | weights, float32 |
| experiment.toml | task, network, preprocessing: all that turns weights into a segmentation |
| provenance.json | where it comes from, and the hashes that the first two must have |
| README.md | the model card |
| configs/ | the MONAI bundle: inference.json, metadata.json |
| personal/SITE.safetensors | of a simulation: what is a site's own of the model, where something is |
| signature.json | of a federation: the coordinator's signature over all of them (signed_model.py) |
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import nn

from medseg_core.config import (
    KEEP_TENSORS,
    Experiment,
    Section,
    experiment_sha256,
    experiment_toml,
    read_experiment,
)
from medseg_core.errors import ConfigError, ModelFolderError, NoPersonalModelError, NotWholeError
from medseg_core.files import sha256_of, write_atomic
from medseg_core.learning.identity import global_sha256
from medseg_core.learning.model_card import chosen_round, model_card
from medseg_core.learning.monai_bundle import inference_config, metadata
from medseg_core.learning.networks import build_network
from medseg_core.learning.scope import Scope
from medseg_core.learning.weights import set_weights
from medseg_core.version import commit

WEIGHTS, EXPERIMENT, PROVENANCE = "model.safetensors", "experiment.toml", "provenance.json"
CARD, INFERENCE, METADATA = "README.md", "configs/inference.json", "configs/metadata.json"
FILES = (WEIGHTS, EXPERIMENT, CARD, INFERENCE, METADATA, PROVENANCE)


class Provenance(Section):
    """Where a model comes from, and what it is for: the content of `provenance.json`.

    Format 2 has a scope. A model without one is written in format 1, which earlier releases read.
    """

    format: Literal[1, 2] = 1
    run: str
    version: str
    commit: str
    experiment_sha256: str  # of experiment.toml
    weights_sha256: str  # `global_sha256` of the weights
    round: int
    validation_dice: float | None
    folds: int | None = None  # the weights are those of the first fold
    sites: dict[str, dict[str, dict[str, int]]]  # site -> patients, cases -> train, validation, test
    scope: Scope | None = None  # None: nothing was learned of it


@dataclass(frozen=True)
class LoadedModel:
    """A trained model read back whole. The network is on the CPU, ready to predict."""

    experiment: Experiment
    network: nn.Module
    provenance: Provenance

    @property
    def identity(self) -> dict[str, str]:
        """What a result names, so that one can tell which weights made it."""
        origin = self.provenance
        return {
            "task": self.experiment.task.name,
            "run": origin.run,
            "version": origin.version,
            "weights_sha256": origin.weights_sha256,
        }


def write_model(
    folder: Path,
    experiment: Experiment,
    weights: Mapping[str, npt.NDArray[np.float32]],
    summary: Mapping[str, Any],
    scope: Scope | None = None,
) -> None:
    """Write weights, experiment, provenance, model card and MONAI bundle; `summary` is that of `summary.json`.

    `scope` is what was learned, with the weights, of cases that the model is for. Raises UnusableFolderError.
    """
    provenance = Provenance(
        format=1 if scope is None else 2,
        run=summary["run"],
        version=summary["version"],
        commit=commit(),
        experiment_sha256=experiment_sha256(experiment),
        weights_sha256=global_sha256(weights),
        **chosen_round(summary),
        folds=summary.get("folds"),
        sites=summary["sites"],
        scope=scope,
    )
    card = model_card(experiment, summary, weights_sha256=provenance.weights_sha256, scope=scope)
    files = {
        WEIGHTS: save({name: np.ascontiguousarray(array) for name, array in weights.items()}),
        EXPERIMENT: experiment_toml(experiment).encode(),
        CARD: card.encode(),
        INFERENCE: _json(inference_config(experiment)),
        METADATA: _json(metadata(experiment, summary)),
        PROVENANCE: _json(
            provenance.model_dump(mode="json", exclude=None if scope else {"scope"})
        ),  # last: it vouches for the others
    }
    for name, data in files.items():
        write_atomic(folder / name, data)


def read_model(folder: Path, personal: Path | None = None) -> LoadedModel:
    """The model in a folder, every hash checked, with the tensors that are a site's own if a file of them is given.

    Raises ModelFolderError, and NotWholeError where sites keep part of the model and no such file is given.
    """
    provenance = _read_provenance(folder)
    if sha256_of(_read(folder, EXPERIMENT)) != provenance.experiment_sha256:
        raise ModelFolderError(folder, f"{EXPERIMENT} is not the one that the model was trained with")
    try:
        weights = load(_read(folder, WEIGHTS))
    except SafetensorError:
        raise ModelFolderError(folder, f"{WEIGHTS} is damaged or incomplete") from None
    if global_sha256(weights) != provenance.weights_sha256:
        raise ModelFolderError(folder, f"{WEIGHTS} is damaged: its SHA-256 differs from {PROVENANCE}")
    try:
        experiment = read_experiment(folder / EXPERIMENT)
        network = build_network(experiment.task, experiment.model, seed=0)
        if personal is not None:
            weights |= _load_personal(folder, personal)
            made_by = {"weights_sha256": global_sha256(weights)}
            provenance = provenance.model_copy(update=made_by)  # results name the weights that made them
        elif experiment.federation.algorithm in KEEP_TENSORS:
            raise NotWholeError(folder, experiment.federation.algorithm)
        set_weights(network, weights)
    except (ConfigError, ValueError) as error:
        raise ModelFolderError(folder, f"it was made by another version of medseg ({error})") from None
    return LoadedModel(experiment, network.eval(), provenance)


def _load_personal(folder: Path, path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors in a file of a site's own."""
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        known = sorted(found.stem for found in path.parent.glob(f"*{path.suffix}"))
        raise NoPersonalModelError(folder, path.stem, known) from None
    except (OSError, SafetensorError):
        raise ModelFolderError(folder, f"{path.name} is damaged or cannot be read") from None


def _read_provenance(folder: Path) -> Provenance:
    try:
        return Provenance.model_validate_json(_read(folder, PROVENANCE))
    except ValidationError:
        raise ModelFolderError(folder, f"{PROVENANCE} is damaged, or of another version of medseg") from None


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        fault = (
            "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        )
        raise ModelFolderError(folder, f"{name} {fault}") from None


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
