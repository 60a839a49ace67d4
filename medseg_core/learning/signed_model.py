"""A model package that its reader can trust: a signature over the SHA-256 of every file, and one message to carry all.

`signature.json` lies beside the files. As a message the package is a safetensors file of bytes: a fixed set of names,
nothing that could run, the same bytes for the same package.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medseg_core.errors import ModelFolderError, ModelSignatureError
from medseg_core.files import sha256_of, write_atomic
from medseg_core.learning.model_package import EXPERIMENT, FILES, WEIGHTS
from medseg_core.wire.header import Name, Sha256

SIGNATURE = "signature.json"
SMALL_FILE_BYTES_MAX = 1 << 20  # all but the weights are text of some kilobytes
_DOMAIN = b"medseg model 1\x00"  # keeps a signature from being taken for one over something else


class Manifest(BaseModel):
    """What is signed: the content of `signature.json` but for the signature."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    document: Literal["medseg model"] = "medseg model"
    run: Name
    files: dict[str, Sha256]  # name -> SHA-256
    signature: Annotated[str, Field(pattern="^([0-9a-f]{128})?$")] = ""

    @property
    def experiment_sha256(self) -> str:
        """Identity of the experiment that the model was trained with."""
        return self.files[EXPERIMENT]

    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        document = self.model_dump(mode="json", exclude={"signature"})
        return _DOMAIN + json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def sign_model(folder: Path, run: str, key: Ed25519PrivateKey) -> None:
    """Sign the model that `write_model` left in a folder. Raises ModelFolderError, UnusableFolderError."""
    files = _files_in(folder, FILES)
    manifest = Manifest(run=run, files={name: sha256_of(data) for name, data in files.items()})
    signed = manifest.model_copy(update={"signature": key.sign(manifest.signed_bytes()).hex()})
    write_atomic(folder / SIGNATURE, (signed.model_dump_json(indent=2) + "\n").encode())


def check_model(folder: Path, key: Ed25519PublicKey) -> Manifest:
    """The manifest of a folder whose every file is as the owner of the key signed it. Raises ModelFolderError."""
    try:
        return check_files(_files_in(folder, (*FILES, SIGNATURE)), key)
    except ModelSignatureError as error:
        raise ModelFolderError(folder, error.fault) from None


def check_files(files: Mapping[str, bytes], key: Ed25519PublicKey) -> Manifest:
    """The manifest of a package whose every file is as the owner of the key signed it. Raises ModelSignatureError."""
    if files.keys() != {*FILES, SIGNATURE}:
        raise ModelSignatureError("it has other files than a model has")
    try:
        manifest = Manifest.model_validate_json(files[SIGNATURE])
        key.verify(bytes.fromhex(manifest.signature), manifest.signed_bytes())
    except ValidationError:
        raise ModelSignatureError(f"{SIGNATURE} cannot be read") from None
    except InvalidSignature:
        raise ModelSignatureError("it is not signed by the coordinator of this federation") from None
    for name in FILES:
        if manifest.files.get(name) != sha256_of(files[name]):
            raise ModelSignatureError(f"{name} is not the file that was signed")
    return manifest


def pack_model(folder: Path) -> bytes:
    """A signed model as one message; equal packages give equal bytes. Raises ModelFolderError."""
    files = _files_in(folder, (*FILES, SIGNATURE))
    return safetensors.numpy.save({name: np.frombuffer(files[name], np.uint8) for name in sorted(files)})


def unpack_model(message: bytes) -> dict[str, bytes]:
    """The files in bytes of `pack_model`, by name; `check_files` says whether to believe them.

    Raises ModelSignatureError for anything that is not exactly the files of a model.
    """
    try:
        entries: list[tuple[str, Mapping[str, Any]]] = safetensors.deserialize(message)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        raise ModelSignatureError("it cannot be read") from None
    files = {name: bytes(entry["data"]) for name, entry in entries if entry["dtype"] == "U8"}
    if files.keys() != {*FILES, SIGNATURE} or len(entries) != len(files):
        raise ModelSignatureError("it has other files than a model has")
    if any(len(data) > SMALL_FILE_BYTES_MAX for name, data in files.items() if name != WEIGHTS):
        raise ModelSignatureError("a file is larger than any of a model")
    return files


def _files_in(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Content of files in a folder. Raises ModelFolderError."""
    try:
        return {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        name = Path(error.filename or "").name
        raise ModelFolderError(folder, f"{name} cannot be read ({error.strerror})") from None
