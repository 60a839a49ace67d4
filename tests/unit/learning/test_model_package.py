"""The folder of a trained model: what is in it, that it reads back, and what is said of a damaged one."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from builders import make_experiment
from trained_model import initial_weights, make_summary, write_trained

from medseg_core.config import experiment_sha256
from medseg_core.errors import ModelFolderError, UnusableFolderError
from medseg_core.files import sha256_of
from medseg_core.learning.identity import global_sha256
from medseg_core.learning.model_package import read_model, write_model
from medseg_core.learning.scope import Moments, Scope
from medseg_core.learning.weights import get_weights

FILES = {
    "model.safetensors",
    "experiment.toml",
    "provenance.json",
    "README.md",
    "configs/inference.json",
    "configs/metadata.json",
}


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "model",
    [
        {"name": "unet"},
        {"name": "dynunet", "channels": [4, 8, 8], "dropout": 0.1},
        {"name": "attention_unet", "normalisation": "batch"},
        {"name": "segresnet", "normalisation": "group"},
    ],
    ids=lambda model: model["name"],
)
def test_a_model_reads_back_bit_for_bit(tmp_path, model):
    experiment = write_trained(tmp_path, seed=3, model=model)

    loaded = read_model(tmp_path)

    assert loaded.experiment == experiment
    weights = get_weights(loaded.network)
    expected = initial_weights(experiment, seed=3)
    assert weights.keys() == expected.keys()
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)
    assert not loaded.network.training


def test_the_folder_holds_these_files_and_nothing_pickled(tmp_path):
    write_trained(tmp_path)

    assert files_in(tmp_path) == FILES


def test_provenance_names_the_run_the_round_and_the_hashes(tmp_path):
    experiment = write_trained(tmp_path)

    stored = json.loads((tmp_path / "provenance.json").read_text())

    assert (stored["run"], stored["version"], stored["round"]) == ("trial", "0.1.0", 2)
    assert stored["weights_sha256"] == global_sha256(initial_weights(experiment))
    assert stored["experiment_sha256"] == experiment_sha256(experiment)
    assert stored["experiment_sha256"] == sha256_of((tmp_path / "experiment.toml").read_bytes())
    assert stored["sites"]["south"]["patients"] == {"train": 6, "validation": 1, "test": 3}
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|unknown", stored["commit"])


def test_with_folds_the_first_fold_is_the_one_that_is_named(tmp_path):
    experiment = make_experiment(simulation={"folds": 2})
    best = [{"round": 1, "validation_dice": 0.5}, {"round": 2, "validation_dice": 0.9}]
    weights = initial_weights(experiment)

    write_model(tmp_path, experiment, weights, make_summary(experiment, folds=2, best=best))

    provenance = read_model(tmp_path).provenance
    assert (provenance.round, provenance.validation_dice, provenance.folds) == (1, 0.5, 2)


def test_a_model_is_replaced_by_writing_again(tmp_path):
    write_trained(tmp_path, seed=0)
    experiment = write_trained(tmp_path, seed=1)

    assert read_model(tmp_path).provenance.weights_sha256 == global_sha256(initial_weights(experiment, 1))


@pytest.mark.parametrize("name", ["model.safetensors", "experiment.toml", "provenance.json"])
def test_a_missing_file_is_named_with_the_remedy(tmp_path, name):
    write_trained(tmp_path)
    (tmp_path / name).unlink()

    with pytest.raises(
        ModelFolderError, match=rf"{name} is not there\. Give the model/ folder of a finished run"
    ):
        read_model(tmp_path)


def test_a_folder_that_is_not_there_is_told_so(tmp_path):
    with pytest.raises(ModelFolderError, match=r"nowhere: provenance\.json is not there"):
        read_model(tmp_path / "nowhere")


def test_one_flipped_bit_in_the_weights_is_found(tmp_path):
    write_trained(tmp_path)
    path = tmp_path / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)

    with pytest.raises(ModelFolderError, match="damaged: its SHA-256 differs"):
        read_model(tmp_path)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_cut_weights_are_found(tmp_path, kept):
    write_trained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(ModelFolderError, match=r"model\.safetensors is damaged or incomplete"):
        read_model(tmp_path)


def test_a_changed_experiment_is_refused(tmp_path):
    write_trained(tmp_path)
    path = tmp_path / "experiment.toml"
    path.write_text(path.read_text().replace('normalisation = "zscore"', 'normalisation = "range"'))

    with pytest.raises(ModelFolderError, match="not the one that the model was trained with"):
        read_model(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"run": 3}'])
def test_a_damaged_provenance_is_refused(tmp_path, text):
    write_trained(tmp_path)
    (tmp_path / "provenance.json").write_text(text)

    with pytest.raises(ModelFolderError, match=r"provenance\.json is damaged, or of another version"):
        read_model(tmp_path)


def test_weights_of_another_network_are_refused_though_their_hash_is_right(tmp_path):
    experiment = make_experiment()
    others = initial_weights(make_experiment(model={"channels": [4, 4]}))
    write_model(tmp_path, experiment, others, make_summary(experiment))

    with pytest.raises(ModelFolderError, match="made by another version of medseg"):
        read_model(tmp_path)


def test_an_unwritable_place_is_told(tmp_path):
    (tmp_path / "model").write_text("a file")

    with pytest.raises(UnusableFolderError, match="Choose another folder"):
        write_trained(tmp_path / "model")


def test_a_model_without_a_scope_is_as_earlier_releases_wrote_it(tmp_path):
    write_trained(tmp_path)

    document = json.loads((tmp_path / "provenance.json").read_text())

    assert document["format"] == 1
    assert "scope" not in document
    assert read_model(tmp_path).provenance.scope is None
    assert "no threshold of uncertainty" in (tmp_path / "README.md").read_text()


def test_a_scope_reads_back_as_it_was_learned(tmp_path):
    experiment = make_experiment()
    scope = Scope(
        moments={"uncertainty": Moments(n=5, mean=0.1, sd=0.05)}, sites={"training": 0, "validation": 1}
    )
    write_model(tmp_path, experiment, initial_weights(experiment), make_summary(experiment), scope)

    provenance = read_model(tmp_path).provenance

    assert (provenance.format, provenance.scope) == (2, scope)
