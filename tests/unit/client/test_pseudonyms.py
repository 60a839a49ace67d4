"""Names of an import: keyed, the same each time, and told from a key that stays at the site."""

import hmac
import stat
from pathlib import Path

import pytest

from medseg_client.importing.attributes import age_group, field_strength, scanner, sex, vendor
from medseg_client.importing.pseudonyms import Pseudonyms, pseudonyms_of
from medseg_core.errors import KeyFileError

NAMES = Pseudonyms(bytes(32))


def test_a_name_is_the_hmac_of_what_it_stands_for() -> None:
    expected = hmac.digest(bytes(32), b"patient\x00STS_001", "sha256").hex()[:16]
    assert NAMES.patient("STS_001 ") == f"patient-{expected}"


def test_names_differ_by_key_purpose_and_content() -> None:
    other = Pseudonyms(bytes([1]) * 32)
    names = {NAMES.patient("1.2"), NAMES.patient("1.3"), other.patient("1.2"), NAMES.case(["1.2"])[5:]}
    assert len(names) == 4
    assert NAMES.case(["1.2", "1.3"]) == NAMES.case(["1.3", "1.2"]) != NAMES.case(["1.2"])


def test_a_key_is_made_once_and_its_owner_alone_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "pseudonym.key"
    first = pseudonyms_of(path).patient("x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert pseudonyms_of(path).patient("x") == first


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ("00" * 32, 0o640, "can be read by others than its owner. Let no one else read it: chmod 600"),
        ("00" * 31, 0o600, "is not 32 bytes in hexadecimal. Restore it from a copy"),
        ("no key", 0o600, "is not 32 bytes in hexadecimal"),
    ],
)
def test_a_key_that_does_not_serve_is_told(tmp_path: Path, text: str, mode: int, sentence: str) -> None:
    path = tmp_path / "pseudonym.key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=sentence):
        pseudonyms_of(path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SIEMENS", "Siemens"),
        ("Siemens Healthineers", "Siemens"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("GE", "GE"),
        ("Geisler^Maria", "other"),
        ("Philips Medical Systems", "Philips"),
        ("  ", ""),
    ],
)
def test_a_manufacturer_becomes_a_name_from_our_list(text: str, name: str) -> None:
    assert vendor(text) == name


def test_a_model_tells_scanners_apart_without_being_named() -> None:
    aera, skyra = scanner("SIEMENS", "Aera", NAMES), scanner("SIEMENS", "Skyra", NAMES)
    assert aera != skyra
    assert aera.startswith("Siemens ")
    assert "Aera" not in aera
    assert scanner("SIEMENS", "", NAMES) == "Siemens"


@pytest.mark.parametrize(
    ("tesla", "text"), [(1.494, "1.5"), (3.0, "3"), (None, ""), (15000.0, ""), (float("nan"), "")]
)
def test_a_field_strength_is_a_usual_one(tesla: float | None, text: str) -> None:
    assert field_strength(tesla) == text


@pytest.mark.parametrize(
    ("years", "group"),
    [(0.0, "0-17"), (17.9, "0-17"), (18.0, "18-39"), (79.0, "70-79"), (80.0, "80+"), (None, ""), (999.0, "")],
)
def test_ages_are_told_in_groups(years: float | None, group: str) -> None:
    assert age_group(years) == group


def test_a_sex_is_one_of_dicoms_letters() -> None:
    assert [sex(text) for text in ("F", "M", "O", "", "Meier^Anna")] == ["F", "M", "O", "", ""]
