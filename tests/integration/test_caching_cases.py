"""The cache of preprocessed cases: read once, re-read on any change, healed when damaged, safe to share."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import safetensors.numpy
from builders import make_experiment

from medseg_core.cohort import cache, digests
from medseg_core.cohort.cache import Prepared, prepare_cases
from medseg_core.config import Task
from medseg_core.data_errors import EmptyLabelError
from medseg_core.errors import UnusableFolderError
from medseg_core.imaging.io import write_image, write_label
from medseg_core.types import Case, Geometry

GEOMETRY = Geometry((10, 8, 6), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))


def make_task(**settings: object) -> Task:
    return make_experiment(task={"spatial_dims": 3, **settings}, training={"patch_size": (8, 8, 8)}).task


TASK = make_task()


def write_case(folder: Path, name: str, *, seed: int = 0, is_empty: bool = False) -> Case:
    label = np.zeros(GEOMETRY.shape, np.uint8)
    label[2:5, 2:5, 2:5] = 0 if is_empty else 1
    voxels = np.random.default_rng(seed).normal(100, 10, GEOMETRY.shape).astype(np.float32)
    write_image(folder / f"{name}.nii.gz", voxels, GEOMETRY)
    write_label(folder / f"{name}_label.nii.gz", label, GEOMETRY)
    return Case(name, f"patient-{name}", "", (folder / f"{name}.nii.gz",), folder / f"{name}_label.nii.gz")


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    (tmp_path / "data").mkdir()
    return [write_case(tmp_path / "data", f"case-{n}", seed=n) for n in range(3)]


def prepare(cases: list[Case], tmp_path: Path, task: Task = TASK, threads: int = 2) -> Prepared:
    return prepare_cases(cases, task, tmp_path / "cache", threads=threads)


def entries(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").iterdir() if path.name != cache.FILES)


def test_a_second_start_reads_nothing_and_gives_the_same_cases(cases: list[Case], tmp_path: Path) -> None:
    first, second = prepare(cases, tmp_path), prepare(cases, tmp_path)
    assert (first.n_read, second.n_read) == (3, 0)
    assert list(first.cases) == list(second.cases) == ["case-0", "case-1", "case-2"]
    for name, case in first.cases.items():
        again = second.cases[name]
        for array in ("image", "label", "foreground"):
            np.testing.assert_array_equal(getattr(case, array), getattr(again, array))
            assert getattr(case, array).dtype == getattr(again, array).dtype
        assert (case.case, case.geometry, case.original) == (again.case, again.geometry, again.original)
        assert case.label_voxels == again.label_voxels == (27,)


def test_a_second_start_opens_no_image_and_no_label(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "RESTED_NS", 0)  # the files were written just now
    prepare(cases, tmp_path)
    sources = {path for case in cases for path in (*case.images, case.label)}
    opened: list[Path] = []
    really_open = Path.open

    def watched(path: Path, *how: Any, **more: Any) -> Any:
        opened.append(path)
        return really_open(path, *how, **more)

    monkeypatch.setattr(Path, "open", watched)
    assert prepare(cases, tmp_path).n_read == 0
    assert not sources & set(opened)
    os.utime(cases[0].images[0])
    assert prepare(cases, tmp_path).n_read == 0  # opened, and found to hold the same
    assert sources & set(opened) == {cases[0].images[0]}


def test_cached_arrays_cannot_be_written_to(cases: list[Case], tmp_path: Path) -> None:
    case = prepare(cases, tmp_path).cases["case-0"]
    with pytest.raises(ValueError, match="read-only"):
        case.image[:] = 0


def test_a_changed_image_or_label_is_read_again_and_alone(cases: list[Case], tmp_path: Path) -> None:
    prepare(cases, tmp_path)
    write_case(tmp_path / "data", "case-1", seed=77)
    assert prepare(cases, tmp_path).n_read == 1
    write_case(tmp_path / "data", "case-2", seed=2, is_empty=True)
    assert prepare(cases, tmp_path).n_read == 1


def test_a_renamed_case_is_its_own_entry(cases: list[Case], tmp_path: Path) -> None:
    prepare(cases, tmp_path)
    assert prepare([Case("other", "p", "", cases[0].images, cases[0].label)], tmp_path).n_read == 1


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (2.0, 2.0, 2.0)},
        {"orientation": "RAS"},
        {"foreground_crop": True},
        {"ignore_value": 7},
        {"labels": {"lesion": "nonzero"}},
        {"channels": [{"name": "grey", "normalisation": "range"}]},
        {"channels": [{"name": "grey", "clahe": True}]},
        {"allow_empty_label": False},
    ],
)
def test_another_setting_reads_everything_again(cases: list[Case], tmp_path: Path, change: dict) -> None:
    prepare(cases, tmp_path)
    assert prepare(cases, tmp_path, make_task(**change)).n_read == 3
    assert prepare(cases, tmp_path).n_read == 0


def test_settings_that_do_not_touch_voxels_read_nothing_again(cases: list[Case], tmp_path: Path) -> None:
    prepare(cases, tmp_path)
    assert prepare(cases, tmp_path, make_task(name="other", licence="CC0")).n_read == 0


def test_a_label_that_was_allowed_to_be_empty_is_refused_where_it_is_not(tmp_path: Path) -> None:
    case = write_case(tmp_path, "empty", is_empty=True)
    assert prepare([case], tmp_path).warnings == prepare([case], tmp_path).warnings != ()
    strict = prepare([case], tmp_path, make_task(allow_empty_label=False))
    assert [type(fault.error) for fault in strict.faults] == [EmptyLabelError]


META = "ObjectType = Image\nNDims = 3\nDimSize = 10 8 6\nElementType = MET_FLOAT\nElementSpacing = 1 1 2\n"
NRRD = "NRRD0004\ntype: float\ndimension: 3\nsizes: 10 8 6\nspacings: 1 1 2\nendian: little\nencoding: raw\n"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("image.mhd", f"{META}ElementDataFile = image.raw\n"),
        ("image.mha", f"{META}ElementDataFile = image.raw\n"),
        ("image.nhdr", f"{NRRD}data file: image.raw\n"),
        ("image.nhdr", f"{NRRD}Data File: image.raw\n"),
        ("image.nhdr", f"{NRRD}DATAFILE: image.raw\n".replace("\n", "\r\n")),
        ("image.nrrd", f"{NRRD}data file: image.raw\n\n"),
    ],
    ids=[".mhd", ".mha", ".nhdr", "Data File", "DATAFILE", ".nrrd"],
)
def test_the_data_file_of_a_header_counts_as_its_content(tmp_path: Path, name: str, header: str) -> None:
    (tmp_path / name).write_bytes(header.encode())
    label = write_case(tmp_path, "case").label
    case = Case("header", "patient", "", (tmp_path / name,), label)
    images = []
    for seed in (1, 2):
        voxels = np.random.default_rng(seed).random(GEOMETRY.shape).astype(np.float32)
        (tmp_path / "image.raw").write_bytes(voxels.tobytes())
        prepared = prepare([case], tmp_path)
        assert prepared.n_read == 1, prepared.faults
        images.append(prepared.cases["header"].image.tobytes())
    assert images[0] != images[1]


@pytest.mark.parametrize("file", ["arrays.safetensors", "case.json"])
@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "gone", "other json"])
def test_a_damaged_entry_is_built_again(cases: list[Case], tmp_path: Path, file: str, damage: str) -> None:
    expected = {name: case.image.tobytes() for name, case in prepare(cases, tmp_path).cases.items()}
    path = entries(tmp_path)[0] / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "half": content[: len(content) // 2],
                "garbage": b"\xff" * 99,
                "other json": b'{"x": 1}',
            }[damage]
        )
    healed = prepare(cases, tmp_path)
    assert healed.n_read == 1
    assert {name: case.image.tobytes() for name, case in healed.cases.items()} == expected
    assert prepare(cases, tmp_path).n_read == 0


def test_a_data_file_that_no_file_can_be_called_is_a_fault_of_its_case(tmp_path: Path) -> None:
    (tmp_path / "image.mhd").write_bytes(f"{META}ElementDataFile = a\0b.raw\n".encode())
    case = Case("header", "patient", "", (tmp_path / "image.mhd",), write_case(tmp_path, "case").label)
    (fault,) = prepare([case], tmp_path).faults
    assert "Correct the path" in str(fault.error)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (b"", b"[]"),
        (b"", b"null"),
        (b'"geometry": {', b'"geometry": "", "more": {'),
        (b'"shape": [10, 8, 6]', b'"shape": "10x8x6"'),
        (b'"shape": [10, 8, 6]', b'"shape": [10, 8, 7]'),
        (b'"spacing_mm": [1.0, 1.0, 2.0]', b'"spacing_mm": 1'),
        (b'"origin_mm"', b'"origin"'),
        (b'"label_voxels": [27]', b'"label_voxels": null'),
        (b'"label_voxels": [27]', b'"label_voxels": ["27"]'),
        (b'"warnings": []', b'"warnings": [1]'),
    ],
)
def test_an_entry_that_tells_other_things_is_built_again(
    cases: list[Case], tmp_path: Path, part: bytes, other: bytes
) -> None:
    first = prepare(cases, tmp_path)
    path = entries(tmp_path)[0] / "case.json"
    content = path.read_bytes()
    assert part in content
    path.write_bytes(content.replace(part, other, 1) if part else other)
    healed = prepare(cases, tmp_path)
    assert healed.n_read == 1
    assert [c.geometry for c in healed.cases.values()] == [c.geometry for c in first.cases.values()]


@pytest.mark.parametrize(
    "change", [{"label": None}, {"label": np.zeros((2, 2), np.uint8)}, {"image": np.zeros((1, 2, 2, 2))}]
)
def test_an_entry_with_other_arrays_is_built_again(
    cases: list[Case], tmp_path: Path, change: dict[str, np.ndarray | None]
) -> None:
    prepare(cases, tmp_path)
    path = entries(tmp_path)[0] / "arrays.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes()) | change
    path.write_bytes(safetensors.numpy.save({name: a for name, a in arrays.items() if a is not None}))
    healed = prepare(cases, tmp_path)
    assert healed.n_read == 1
    assert {c.label.shape for c in healed.cases.values()} == {GEOMETRY.shape}


def test_faulty_cases_are_told_and_the_others_are_there(cases: list[Case], tmp_path: Path) -> None:
    cases[1].images[0].write_bytes(b"no image")
    prepared = prepare(cases, tmp_path)
    assert list(prepared.cases) == ["case-0", "case-2"]
    assert [fault.case.case_id for fault in prepared.faults] == ["case-1"]
    assert len(entries(tmp_path)) == 2
    assert prepare(cases, tmp_path).n_read == 1  # it may have been mended


def test_every_case_is_announced_also_a_faulty_one(cases: list[Case], tmp_path: Path) -> None:
    cases[0].images[0].unlink()
    seen: list[int] = []
    prepare_cases(cases, TASK, tmp_path / "cache", threads=2, on_case=lambda: seen.append(1))
    assert len(seen) == 3


def test_several_starts_at_once_end_with_one_whole_entry_a_case(cases: list[Case], tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: prepare(cases, tmp_path), range(4)))
    assert all(not r.faults and len(r.cases) == 3 for r in results)
    assert len(entries(tmp_path)) == 3
    assert prepare(cases, tmp_path).n_read == 0


def test_a_cache_folder_that_cannot_be_written_gets_a_sentence(cases: list[Case], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UnusableFolderError, match="Choose another folder"):
        prepare(cases, tmp_path)


def test_a_full_disk_stops_at_the_first_case_and_leaves_nothing(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_synced", full)
    with pytest.raises(UnusableFolderError, match="No space left on device"):
        prepare(cases, tmp_path, threads=1)
    assert entries(tmp_path) == []


def test_what_a_killed_process_left_goes_after_a_day(cases: list[Case], tmp_path: Path) -> None:
    old, fresh = tmp_path / "cache" / "a.tmp", tmp_path / "cache" / "b.tmp"
    for leftover in (old, fresh):
        leftover.mkdir(parents=True)
        (leftover / "arrays.safetensors").write_bytes(b"half")
    yesterday = time.time() - 2 * 24 * 3600
    os.utime(old, (yesterday, yesterday))
    prepare(cases, tmp_path)
    assert (old.exists(), fresh.exists()) == (False, True)


def test_cases_in_memory_hold_no_file_open(cases: list[Case], tmp_path: Path) -> None:
    before = psutil.Process().num_fds() if hasattr(psutil.Process, "num_fds") else 0
    held = [prepare(cases, tmp_path, threads=1) for _ in range(5)]
    after = psutil.Process().num_fds() if hasattr(psutil.Process, "num_fds") else 0
    assert after - before < 3
    assert len(held) == 5


def test_a_cache_that_is_deleted_is_made_again(cases: list[Case], tmp_path: Path) -> None:
    first = prepare(cases, tmp_path)
    shutil.rmtree(tmp_path / "cache")
    assert first.cases["case-0"].image.any()  # what is in use stays readable
    assert prepare(cases, tmp_path).n_read == 3
