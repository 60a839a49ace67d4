"""A model that the coordinator sent: kept when it is what it says, used when the hospital says so."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import (
    COORDINATOR_KEY,
    initial_weights,
    make_experiment,
    make_request,
    make_site_data,
    make_trainer,
    opened,
    site_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save
from trained_model import make_summary

from medseg_client.models import Models
from medseg_client.trainer import Trainer
from medseg_core.errors import ModelFolderError
from medseg_core.federation_errors import ApprovalsError, NoModelError
from medseg_core.learning.model_package import write_model
from medseg_core.learning.signed_model import pack_model, sign_model, unpack_model

EXPERIMENT = make_experiment()
OTHER = make_experiment(training={"learning_rate": 0.5})


def package(
    folder: Path,
    *,
    run: str = "run",
    seed: int = 0,
    key: Ed25519PrivateKey = COORDINATOR_KEY,
    experiment: object = EXPERIMENT,
) -> bytes:
    """A model package of a run, made in `folder`."""
    made = folder / f"made-{run}-{seed}"
    write_model(made, experiment, initial_weights(experiment, seed), make_summary(experiment, run=run))
    sign_model(made, run, key)
    return pack_model(made)


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path / "models", COORDINATOR_KEY.public_key())


@pytest.fixture
def trainer(tmp_path: Path, models: Models) -> Trainer:
    return make_trainer(tmp_path / "state", EXPERIMENT, make_site_data(), faults=[], models=models)


def send(trainer: Trainer, payload: bytes, **fields: object) -> str:
    """Publish to the site; `receipt`, or the code of the refusal."""
    header = opened(trainer.handle(make_request(EXPERIMENT, "publish", weights=payload, **fields))).header
    if header.direction == "reply":
        assert header.counts == {"files": 7, "bytes": len(payload)}
        assert header.scalars == {}
    return str(header.code or "receipt")


def test_a_model_that_arrives_is_kept_and_not_used(tmp_path: Path, trainer: Trainer, models: Models) -> None:
    assert send(trainer, package(tmp_path)) == "receipt"

    assert [(model.run, model.state) for model in models.listed()] == [("run", "unapproved")]
    with pytest.raises(NoModelError, match="no model is approved here"):
        models.in_use()


def test_the_same_model_sent_again_is_received_again(tmp_path: Path, trainer: Trainer) -> None:
    payload = package(tmp_path)
    assert [send(trainer, payload, attempt=n) for n in (1, 2)] == ["receipt", "receipt"]


def test_a_second_model_of_a_run_does_not_replace_the_first(
    tmp_path: Path, trainer: Trainer, models: Models
) -> None:
    send(trainer, package(tmp_path))
    kept = (models.folder / "run/signature.json").read_bytes()

    assert send(trainer, package(tmp_path, seed=1), attempt=2) == "conflicting_request"
    assert (models.folder / "run/signature.json").read_bytes() == kept


def with_another_readme(payload: bytes) -> bytes:
    return repacked({**unpack_model(payload), "README.md": b"A better model."})


def with_a_path(payload: bytes) -> bytes:
    return repacked({**unpack_model(payload), "../../approved/evil.toml": b"x"})


def cut(payload: bytes) -> bytes:
    return payload[:-10]


def repacked(files: dict[str, bytes]) -> bytes:
    return save({name: np.frombuffer(data, np.uint8) for name, data in files.items()})


@pytest.mark.parametrize("change", [with_another_readme, with_a_path, cut])
def test_a_changed_package_is_refused_and_leaves_nothing(
    tmp_path: Path, trainer: Trainer, models: Models, change: Callable[[bytes], bytes]
) -> None:
    assert send(trainer, change(package(tmp_path))) == "bad_signature"
    assert not models.folder.exists()
    assert not list(tmp_path.rglob("evil.toml"))


def test_a_package_signed_by_somebody_else_is_refused(tmp_path: Path, trainer: Trainer) -> None:
    assert send(trainer, package(tmp_path, key=site_key("mallory"))) == "bad_signature"


def test_a_package_of_another_run_or_experiment_is_refused(
    tmp_path: Path, trainer: Trainer, models: Models
) -> None:
    assert send(trainer, package(tmp_path, run="another")) == "malformed"
    assert send(trainer, package(tmp_path, experiment=OTHER), attempt=2) == "malformed"
    assert not models.folder.exists()


def test_weights_of_another_network_are_refused(tmp_path: Path, trainer: Trainer, models: Models) -> None:
    made = tmp_path / "made"
    write_model(made, EXPERIMENT, {"weights": np.zeros(3, np.float32)}, make_summary(EXPERIMENT))
    sign_model(made, "run", COORDINATOR_KEY)

    assert send(trainer, pack_model(made)) == "malformed"
    assert not models.folder.exists()


def two_models(tmp_path: Path, models: Models) -> None:
    for number, run in enumerate(("first", "second")):
        models.keep(run, unpack_model(package(tmp_path, run=run, seed=number)))


def test_the_last_approved_model_is_used_and_a_rollback_uses_the_one_before(
    tmp_path: Path, models: Models
) -> None:
    two_models(tmp_path, models)
    models.approve("first")
    models.approve("second")
    assert models.in_use().name == "second"
    assert {model.run: model.state for model in models.listed()} == {
        "first": "approved before",
        "second": "in use",
    }

    assert models.rollback() == "first"

    assert models.in_use().name == "first"
    with pytest.raises(NoModelError, match="no approved model to go back to"):
        models.rollback()
    assert models.in_use().name == "first"


def test_a_model_changed_after_its_approval_is_not_used(tmp_path: Path, models: Models) -> None:
    two_models(tmp_path, models)
    models.approve("first")
    with (models.folder / "first/model.safetensors").open("ab") as file:
        file.write(b"x")

    with pytest.raises(ModelFolderError, match=r"model\.safetensors is not the file that was signed"):
        models.in_use()
    assert models.listed()[0].state == "damaged"


def test_another_signed_model_put_in_its_place_is_not_used(tmp_path: Path, models: Models) -> None:
    two_models(tmp_path, models)
    models.approve("first")
    for name, data in unpack_model(package(tmp_path, run="first", seed=5)).items():
        (models.folder / "first" / name).write_bytes(data)

    with pytest.raises(ModelFolderError, match="not the one that was approved"):
        models.in_use()


@pytest.mark.parametrize("run", ["none", "../models/first", ""])
def test_only_a_model_that_is_here_can_be_approved(tmp_path: Path, models: Models, run: str) -> None:
    two_models(tmp_path, models)

    with pytest.raises(NoModelError, match="models list"):
        models.approve(run)


def test_a_damaged_list_of_approvals_gets_a_sentence(tmp_path: Path, models: Models) -> None:
    two_models(tmp_path, models)
    (models.folder / "approved.json").write_text("[{]")

    with pytest.raises(ApprovalsError, match="approve a model again"):
        models.in_use()
