"""Ed25519 keys of sites and coordinator: made, kept in a file, shown as short text."""

import base64
import binascii
import contextlib
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medseg_core.errors import KeyFileError, PublicKeyError

_PREFIX = "ed25519:"


def make_key() -> Ed25519PrivateKey:
    """A new private key from the operating system's random source."""
    return Ed25519PrivateKey.generate()


def save_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Write the key as unencrypted PEM (PKCS8), readable by its owner only where the system knows owners.

    A key that is already there is never replaced. Raises KeyFileError.
    """
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    if path.exists():
        raise KeyFileError(path, "a key is already there", "Use it, or move it away first")
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "xb", opener=_owner_only) as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        reason = error.strerror or type(error).__name__
        raise KeyFileError(path, f"cannot be written ({reason})", "Choose another folder") from error


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file of `save_key`. Raises KeyFileError."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise KeyFileError(path, f"cannot be read ({reason})", "Name the file that holds the key") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(path, "holds no unencrypted PEM private key", "Restore it from a copy") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(path, f"holds a {type(key).__name__}, not an Ed25519 key", "Name another file")
    return key


def public_text(key: Ed25519PublicKey) -> str:
    """The public key as short text for a roster or kit: `ed25519:` and 44 characters."""
    return _PREFIX + base64.b64encode(key.public_bytes_raw()).decode()


def public_key_of(text: str) -> Ed25519PublicKey:
    """The public key in a text of `public_text`. Raises PublicKeyError."""
    encoded = text.strip()
    if not encoded.startswith(_PREFIX):
        raise PublicKeyError(text)
    try:
        return Ed25519PublicKey.from_public_bytes(
            base64.b64decode(encoded.removeprefix(_PREFIX), validate=True)
        )
    except (binascii.Error, ValueError):
        raise PublicKeyError(text) from None


def fingerprint(key: Ed25519PublicKey) -> str:
    """What two people compare over the telephone: 80 bits of the key's SHA-256, in groups of four."""
    digest = hashlib.sha256(key.public_bytes_raw()).hexdigest()[:20]
    return "-".join(digest[i : i + 4] for i in range(0, 20, 4))


def _owner_only(path: str, flags: int) -> int:
    """Open with mode 0600, so that the key is at no moment readable by others."""
    return os.open(path, flags, 0o600)
