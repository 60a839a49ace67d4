"""When something is wrong: one sentence with cause and remedy, exit code 1, nothing half-written."""

import csv
import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from command_line import Outcome, caller

from medseg_core.config import Experiment, experiment_toml, parse_experiment
from medseg_core.files import sole_use
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

TINY = {
    "task": {
        "name": "tiny",
        "spatial_dims": 2,
        "channels": [{"name": "grey"}],
        "labels": {"organ": 1, "lesion": 2},
    },
    "model": {"channels": [4, 8], "residual_units": 1},
    "training": {"patch_size": [16, 16], "cpu_threads": 1, "augmentation": False},
    "federation": {"rounds": 1},
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(
        tmp_path_factory.mktemp("phantoms") / "data",
        PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0),
    )


@pytest.fixture
def data(phantoms: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantoms, tmp_path / "data"))


@pytest.fixture
def simulate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    call = caller(monkeypatch, capsys)

    def run(*words: object, experiment: str | None = None, out: Path = tmp_path / "out") -> Outcome:
        path = tmp_path / "tiny.toml"
        path.write_text(experiment_toml(tiny()) if experiment is None else experiment)
        return call("run", path, "--data", data, "--out", out, "--cache", tmp_path / "cache", *words)

    return run


def tiny(**changes: dict[str, object]) -> Experiment:
    document = {name: TINY[name] | changes.get(name, {}) for name in TINY}
    document |= {name: section for name, section in changes.items() if name not in TINY}
    return parse_experiment(document, source="tiny")


def rows(data: Path) -> list[dict[str, str]]:
    with (data / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def write_rows(data: Path, changed: list[dict[str, str]]) -> None:
    with (data / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(changed[0]))
        writer.writeheader()
        writer.writerows(changed)


def assert_refused(outcome: Outcome, tmp_path: Path, *words: str) -> None:
    assert outcome.code == 1, outcome
    assert outcome.err.strip().splitlines()[-1] or outcome.err
    for word in ("error: ", *words):
        assert word in outcome.err, outcome.err
    assert "Traceback" not in outcome.err
    left = tmp_path / "out"
    assert not (left / "summary.json").exists()
    assert not (left / "report.html").exists()
    assert not list(left.rglob("*.tmp"))


def test_the_tiny_experiment_runs_when_nothing_is_wrong(simulate, tmp_path):
    assert simulate().code == 0
    assert (tmp_path / "out" / "report.html").exists()


def test_a_missing_image_is_named_with_its_case(simulate, data, tmp_path):
    first = rows(data)[0]
    (data / first["image"]).unlink()
    assert_refused(simulate(), tmp_path, first["case_id"], "1 of 8 cases")


def test_all_faulty_cases_are_listed_at_once(simulate, data, tmp_path):
    for row in rows(data)[:3]:
        (data / row["image"]).write_bytes(b"")
    assert_refused(simulate(), tmp_path, *(row["case_id"] for row in rows(data)[:3]), "3 of 8 cases")


def test_a_truncated_image_is_refused(simulate, data, tmp_path):
    path = data / rows(data)[0]["image"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_refused(simulate(), tmp_path, rows(data)[0]["case_id"])


def test_an_image_cut_inside_its_compression_is_refused(simulate, data, tmp_path):
    path = data / rows(data)[0]["image"]
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[: len(whole) - 100]))
    assert_refused(simulate(), tmp_path, rows(data)[0]["case_id"])


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (7.0, "7 everywhere")])
def test_an_image_without_usable_intensities_is_refused(simulate, data, tmp_path, value, word):
    path = data / rows(data)[0]["image"]
    image = sitk.ReadImage(str(path))
    voxels = np.full(sitk.GetArrayFromImage(image).shape, value, np.float32)
    if np.isnan(value):
        voxels[1:] = 3.0
    changed = sitk.GetImageFromArray(voxels)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(path))
    assert_refused(simulate(), tmp_path, rows(data)[0]["case_id"], word)


def test_a_label_on_another_grid_is_refused(simulate, data, tmp_path):
    path = data / rows(data)[0]["label"]
    label = sitk.ReadImage(str(path))
    label.SetSpacing((9.0, 9.0))
    sitk.WriteImage(label, str(path))
    assert_refused(simulate(), tmp_path, rows(data)[0]["case_id"], "spacing")


def test_an_unknown_label_value_is_refused_naming_the_known_ones(simulate, data, tmp_path):
    path = data / rows(data)[0]["label"]
    label = sitk.ReadImage(str(path))
    label[0, 0] = 9
    sitk.WriteImage(label, str(path))
    assert_refused(simulate(), tmp_path, rows(data)[0]["case_id"], "9", "organ")


def test_a_wrong_number_of_channels_is_refused(simulate, tmp_path):
    two = tiny(task={"channels": [{"name": "a"}, {"name": "b"}]})
    assert_refused(simulate(experiment=experiment_toml(two)), tmp_path, "channel")


def test_an_empty_label_is_refused_where_the_task_forbids_it(simulate, data, tmp_path):
    path = data / rows(data)[0]["label"]
    sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))
    strict = experiment_toml(tiny(task={"allow_empty_label": False}))
    assert_refused(simulate(experiment=strict), tmp_path, rows(data)[0]["case_id"], "empty")


def test_an_empty_label_is_a_warning_elsewhere(simulate, data):
    path = data / rows(data)[0]["label"]
    sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))
    outcome = simulate()
    assert outcome.code == 0
    assert "warning" in outcome.err
    assert rows(data)[0]["case_id"] in outcome.err


def test_a_duplicate_case_is_refused(simulate, data, tmp_path):
    write_rows(data, [*rows(data), rows(data)[0]])
    assert_refused(simulate(), tmp_path, rows(data)[0]["case_id"])


def test_a_patient_in_two_sites_is_refused_unless_identifiers_are_per_site(simulate, data, tmp_path):
    changed = rows(data)
    changed[-1]["patient_id"] = changed[0]["patient_id"]
    write_rows(data, changed)
    assert_refused(simulate(), tmp_path, changed[0]["patient_id"], "patient_id_scope")
    write_rows(data, [row | {"patient_id_scope": "site"} for row in changed])
    assert simulate("--resume").code == 0


def test_an_empty_manifest_is_refused(simulate, data, tmp_path):
    header = (data / "manifest.csv").read_text().splitlines()[0]
    (data / "manifest.csv").write_text(header + "\n")
    assert_refused(simulate(), tmp_path, "manifest.csv")


def test_a_missing_column_is_named(simulate, data, tmp_path):
    write_rows(data, [{k: v for k, v in row.items() if k != "patient_id"} for row in rows(data)])
    assert_refused(simulate(), tmp_path, "patient_id")


def test_a_folder_without_data_is_refused(simulate, data, tmp_path):
    shutil.rmtree(data)
    assert_refused(simulate(), tmp_path, "data")


def test_a_site_with_too_few_patients_is_named(simulate, data, tmp_path):
    write_rows(data, rows(data)[:6])
    assert_refused(simulate(), tmp_path, "hospital-2", "2 patients")


def test_an_unknown_key_is_refused_with_the_near_miss(simulate, tmp_path):
    text = experiment_toml(tiny()).replace("batch_size", "batchsize")
    assert_refused(simulate(experiment=text), tmp_path, "did you mean 'batch_size'")


def test_an_impossible_patch_is_refused_with_a_possible_one(simulate, tmp_path):
    text = re.sub(r"patch_size = \[[^]]*\]", "patch_size = [17, 16]", experiment_toml(tiny()))
    assert_refused(simulate(experiment=text), tmp_path, "multiple of 2", "Use [")


def test_too_little_memory_is_a_sentence(simulate, tmp_path):
    text = experiment_toml(tiny(training={"patch_size": [2**20, 2**20]}))
    assert_refused(simulate(experiment=text), tmp_path, "out of memory", "patch_size")


def test_a_folder_that_holds_a_run_is_not_overwritten(simulate, tmp_path):
    assert simulate().code == 0
    before = (tmp_path / "out" / "summary.json").read_bytes()
    outcome = simulate()
    assert outcome.code == 1
    assert "--resume" in outcome.err
    assert (tmp_path / "out" / "summary.json").read_bytes() == before


def test_a_folder_in_use_by_another_process_is_refused(simulate, tmp_path):
    with sole_use(tmp_path / "out"):
        outcome = simulate("--resume")
    assert outcome.code == 1
    assert "out is in use by another process. Wait until it ends or stop it" in outcome.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert simulate("--resume").code == 0


def test_another_experiment_cannot_resume_a_run(simulate, tmp_path):
    assert simulate().code == 0
    outcome = simulate("--resume", "--rounds", "2")
    assert outcome.code == 1
    assert "another experiment" in outcome.err


def test_an_output_folder_below_a_file_is_refused(simulate, tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(simulate(out=tmp_path / "file" / "out"), tmp_path, "cannot write")


def test_a_full_disk_is_a_sentence_and_the_run_can_go_on(simulate, tmp_path, monkeypatch):
    original, written = os.fsync, []

    def full_after_some(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 12:
            raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_some)
    assert_refused(simulate(), tmp_path, "No space left on device", "free space")
    monkeypatch.setattr(os, "fsync", original)
    assert simulate("--resume").code == 0


def test_neither_experiment_nor_preset_lists_the_presets(monkeypatch, capsys, tmp_path):
    outcome = caller(monkeypatch, capsys)("run", "--data", tmp_path, "--out", tmp_path / "out")
    assert_refused(outcome, tmp_path, "hippocampus")


def test_an_unknown_device_lists_the_known_ones(simulate, tmp_path):
    assert_refused(simulate("--device", "cuda:99"), tmp_path, "auto", "cpu")
