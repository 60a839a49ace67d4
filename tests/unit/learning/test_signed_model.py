"""A signed model package: carried whole, refused when anything in it was changed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import COORDINATOR_KEY, site_key
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from trained_model import write_trained

from medseg_core.errors import ModelFolderError, ModelSignatureError
from medseg_core.learning.signed_model import (
    FILES,
    SIGNATURE,
    check_files,
    check_model,
    pack_model,
    sign_model,
    unpack_model,
)

PUBLIC = COORDINATOR_KEY.public_key()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_trained(tmp_path / "model")
    sign_model(tmp_path / "model", "run", COORDINATOR_KEY)
    return tmp_path / "model"


def packed(files: dict[str, bytes]) -> bytes:
    return save({name: np.frombuffer(data, np.uint8) for name, data in files.items()})


def test_a_package_arrives_as_it_was_sent(folder: Path) -> None:
    files = unpack_model(pack_model(folder))

    assert files == {name: (folder / name).read_bytes() for name in (*FILES, SIGNATURE)}
    assert check_files(files, PUBLIC).run == "run"


def test_equal_packages_are_equal_bytes(folder: Path) -> None:
    once = pack_model(folder)
    sign_model(folder, "run", COORDINATOR_KEY)
    assert pack_model(folder) == once


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")

    with pytest.raises(ModelFolderError, match=f"{name} is not the file that was signed"):
        check_model(folder, PUBLIC)


def changed_run(document: dict[str, object]) -> None:
    document["run"] = "other"


def added_key(document: dict[str, object]) -> None:
    document["comment"] = "x"


@pytest.mark.parametrize(
    ("change", "fault"), [(changed_run, "not signed by the coordinator"), (added_key, "cannot be read")]
)
def test_a_changed_manifest_is_refused(
    folder: Path, change: Callable[[dict[str, object]], None], fault: str
) -> None:
    document = json.loads((folder / SIGNATURE).read_text())
    change(document)
    (folder / SIGNATURE).write_text(json.dumps(document))

    with pytest.raises(ModelFolderError, match=fault):
        check_model(folder, PUBLIC)


def test_somebody_elses_signature_is_refused(folder: Path) -> None:
    sign_model(folder, "run", site_key("north"))

    with pytest.raises(ModelFolderError, match="not signed by the coordinator"):
        check_model(folder, PUBLIC)


@pytest.mark.parametrize("name", ["../../approved/x.toml", "/etc/passwd", "configs/evil.py", "more.json"])
def test_a_file_that_no_model_has_is_refused(folder: Path, name: str) -> None:
    files = unpack_model(pack_model(folder))

    with pytest.raises(ModelSignatureError, match="other files than a model has"):
        unpack_model(packed({**files, name: b"x"}))


def test_a_missing_file_is_refused(folder: Path) -> None:
    files = unpack_model(pack_model(folder))
    del files["README.md"]

    with pytest.raises(ModelSignatureError, match="other files than a model has"):
        unpack_model(packed(files))


def test_a_text_file_beyond_all_measure_is_refused(folder: Path) -> None:
    files = unpack_model(pack_model(folder))

    with pytest.raises(ModelSignatureError, match="larger than any"):
        unpack_model(packed({**files, "README.md": bytes(2 << 20)}))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_package_are_refused(data: bytes) -> None:
    with pytest.raises(ModelSignatureError):
        unpack_model(data)
