"""Names that stand for patients and studies: a keyed hash, so that nobody without the site's key can make them again.

HMAC-SHA256 (RFC 2104), cut to 64 bits: of a million names two are alike with a chance of 1 in 37 million.
"""

import hmac
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from medseg_core.errors import KeyFileError
from medseg_core.files import write_private

KEY_BYTES = 32
_HEX = 16  # digits of a name
_LOST = "Restore it from a copy; with another key every case and patient has another name"


def pseudonyms_of(path: Path) -> "Pseudonyms":
    """Names by the key in a file, which is made where none is, with mode 0600. Raises KeyFileError."""
    try:
        if not path.exists():
            write_private(path, f"{secrets.token_hex(KEY_BYTES)}\n".encode())
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        fault = f"cannot be read or made ({error.strerror or type(error).__name__})"
        raise KeyFileError(path, fault, "Run this as the account that it belongs to") from None
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(path, "can be read by others than its owner", "Let no one else read it: chmod 600")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyFileError(path, f"is not {KEY_BYTES} bytes in hexadecimal", _LOST)
    return Pseudonyms(key)


class Pseudonyms:
    """Names by one key: the same each time, unlike for unlike things."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def patient(self, patient_id: str) -> str:
        """Stands for a patient, whoever issued the number: two people with one number only stay together in a split."""
        return f"patient-{self._name('patient', [patient_id.strip()])}"

    def case(self, series_uids: Iterable[str]) -> str:
        """Stands for the images of a case: its series, in any order."""
        return f"case-{self._name('case', sorted(series_uids))}"

    def scanner(self, manufacturer: str, model: str) -> str:
        """Stands for a kind of scanner. A model is free text in a header: its name could be anything."""
        return self._name("scanner", [manufacturer.strip().upper(), model.strip().upper()])[:6]

    def _name(self, purpose: str, parts: Iterable[str]) -> str:
        message = "\0".join((purpose, *parts)).encode()
        return hmac.digest(self._key, message, "sha256").hex()[:_HEX]
