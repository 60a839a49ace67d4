"""A file's digest is remembered while the file is as it was, and never longer."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cohort_files import make_case

from medseg_core.cohort import digests
from medseg_core.cohort.cache import cases_sha256
from medseg_core.cohort.digests import remembered_sha256


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as rested."""
    monkeypatch.setattr(digests, "RESTED_NS", 0)
    path = tmp_path / "image.nii.gz"
    path.write_bytes(b"voxels")
    return path


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def remembered(memory: Path) -> list[Path]:
    return sorted(memory.glob("*"))


def test_a_digest_that_is_remembered_is_not_computed_again(file: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    assert remembered_sha256(file, memory) == sha256(b"voxels")
    (place,) = remembered(memory)
    place.write_text(sha256(b"what is remembered").hex())
    assert remembered_sha256(file, memory) == sha256(b"what is remembered")


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of a change that nobody can set")
def test_a_file_of_other_content_has_another_digest_also_with_its_size_and_time_put_back(
    file: Path, tmp_path: Path
) -> None:
    remembered_sha256(file, tmp_path / "memory")
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # a tick of the file system's clock
        file.write_bytes(b"VOXELS")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert remembered_sha256(file, tmp_path / "memory") == sha256(b"VOXELS")


def test_a_file_that_was_replaced_has_another_digest(file: Path, tmp_path: Path) -> None:
    remembered_sha256(file, tmp_path / "memory")
    (tmp_path / "other").write_bytes(b"VOXELS")
    (tmp_path / "other").replace(file)
    assert remembered_sha256(file, tmp_path / "memory") == sha256(b"VOXELS")


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "image.nii.gz"
    file.write_bytes(b"voxels")
    assert remembered_sha256(file, tmp_path / "memory") == sha256(b"voxels")
    assert remembered(tmp_path / "memory") == []


@pytest.mark.parametrize("damage", ["", "abc", "00" * 31, "\0" * 64, "zz" * 32])
def test_a_damaged_memory_is_healed(file: Path, tmp_path: Path, damage: str) -> None:
    memory = tmp_path / "memory"
    remembered_sha256(file, memory)
    (place,) = remembered(memory)
    place.write_text(damage)
    assert remembered_sha256(file, memory) == sha256(b"voxels")
    assert place.read_text() == sha256(b"voxels").hex()


def test_a_memory_that_cannot_be_written_costs_time_alone(file: Path, tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file where the folder should be")
    assert remembered_sha256(file, tmp_path / "memory") == sha256(b"voxels")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        remembered_sha256(tmp_path / "gone", tmp_path / "memory")


def test_a_data_set_is_named_by_its_cases_whose_they_are_and_what_files_hold(tmp_path):
    case = make_case(tmp_path / "data")
    moved = make_case(tmp_path / "elsewhere")
    name = cases_sha256([case], tmp_path)
    assert cases_sha256([moved], tmp_path) == name
    for change in ({"case_id": "x"}, {"patient_id": "x"}, {"site": "x"}, {"label": None}, {"missing": (1,)}):
        assert cases_sha256([replace(case, **change)], tmp_path) != name, change
    assert cases_sha256([case, replace(case, case_id="x")], tmp_path) == cases_sha256(
        [replace(case, case_id="x"), case], tmp_path
    )
    moved.label.write_bytes(case.images[0].read_bytes())
    assert cases_sha256([moved], tmp_path) != name
