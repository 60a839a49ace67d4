"""Keys survive their file and their text, and nothing else passes for one."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from medseg_core.errors import KeyFileError, MedsegError, PublicKeyError
from medseg_core.wire.signatures import fingerprint, load_key, make_key, public_key_of, public_text, save_key

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def test_a_saved_key_is_loaded_again(tmp_path: Path) -> None:
    key, path = make_key(), tmp_path / "keys" / "trainer.pem"
    save_key(path, key)
    assert load_key(path).private_bytes_raw() == key.private_bytes_raw()
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert [p.name for p in path.parent.iterdir()] == ["trainer.pem"]


@pytest.mark.skipif(os.name != "posix", reason="other systems keep no such mode")
def test_a_key_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    save_key(tmp_path / "key.pem", KEY)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_key_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    save_key(tmp_path / "key.pem", KEY)
    with pytest.raises(KeyFileError, match=r"already there\. Use it, or move it away first\."):
        save_key(tmp_path / "key.pem", make_key())
    assert load_key(tmp_path / "key.pem").private_bytes_raw() == bytes(32)


def test_a_full_disk_leaves_no_key_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left on device"):
        save_key(tmp_path / "key.pem", KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"absent\.pem: cannot be read .*Name the file that holds the key"):
        load_key(tmp_path / "absent.pem")


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(KeyFileError, match="no unencrypted PEM private key"):
        load_key(tmp_path / "key.pem")


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    with pytest.raises(KeyFileError, match="not an Ed25519 key"):
        load_key(tmp_path / "key.pem")


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    pem = KEY.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "key.pem").write_bytes(pem)
    with pytest.raises(KeyFileError, match="no unencrypted PEM private key"):
        load_key(tmp_path / "key.pem")


def test_a_public_key_survives_its_text() -> None:
    text = public_text(KEY.public_key())
    assert text == "ed25519:O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik="  # RFC 8032 key of 32 zero bytes
    assert public_key_of(f" {text}\n").public_bytes_raw() == KEY.public_key().public_bytes_raw()


@given(st.text(max_size=80))
def test_any_other_text_is_no_public_key(text: str) -> None:
    for candidate in (text, f"ed25519:{text}"):
        with pytest.raises(PublicKeyError, match="Copy the whole line") as caught:
            public_key_of(candidate)
        assert isinstance(caught.value, MedsegError)


def test_fingerprints_are_short_and_differ() -> None:
    assert fingerprint(KEY.public_key()) == "139e-3940-e64b-5491-7220"
    assert fingerprint(make_key().public_key()) != fingerprint(KEY.public_key())
