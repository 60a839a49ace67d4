"""Phantom data sets: whole, repeatable, and different from hospital to hospital."""

import csv
import hashlib

import numpy as np
import pytest

from medseg_core.errors import UnusableFolderError
from medseg_core.imaging.io import read_image, read_label
from medseg_simulation import phantoms
from medseg_simulation.errors import PhantomSettingsError
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

COARSE = 4.0  # mm; an eighth of the voxels


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """Four hospitals with six cases each."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), PhantomSettings(cases=6, voxel_mm=COARSE))


def rows_of(folder):
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digests_of(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def read(folder, row, *, spatial_dims=3):
    image = read_image(folder / row["image"], spatial_dims=spatial_dims, channels=1, case_id=row["case_id"])
    label = read_label(folder / row["label"], spatial_dims=spatial_dims, case_id=row["case_id"])
    return image, label


def normalised_tissue(folder, site):
    """Brightness of organ and of lesion voxels of one hospital, each image normalised by its own mean and spread."""
    organ, lesion = [], []
    for row in rows_of(folder):
        if row["site"] == site:
            image, label = read(folder, row)
            voxels = (image.voxels - image.voxels.mean()) / image.voxels.std()
            organ.append(voxels[label.voxels == 1])
            lesion.append(voxels[label.voxels == 2])
    return np.concatenate(organ), np.concatenate(lesion)


def test_equal_settings_give_equal_bytes_and_another_seed_others(tmp_path):
    settings = PhantomSettings(sites=2, cases=2, voxel_mm=COARSE)
    first, again, other = (
        digests_of(write_phantoms(tmp_path / name, each))
        for name, each in (
            ("a", settings),
            ("b", settings),
            ("c", PhantomSettings(2, 2, 3, 1, voxel_mm=COARSE)),
        )
    )
    assert first == again
    assert first.keys() == other.keys()
    images = [name for name in first if name.startswith("images")]
    assert all(first[name] != other[name] for name in images)
    assert len({first[name] for name in images}) == 4


def test_the_manifest_names_every_file_and_nothing_else_is_written(coarse):
    rows = rows_of(coarse)
    assert list(rows[0]) == ["case_id", "patient_id", "site", "image", "label", "scanner", "lesion"]
    named = {row[column] for row in rows for column in ("image", "label")} | {"manifest.csv"}
    assert named == set(digests_of(coarse))
    assert len(rows) == len({row["patient_id"] for row in rows}) == 24
    assert {row["site"] for row in rows} == {f"hospital-{n}" for n in range(1, 5)}


def test_every_patient_has_the_organ_and_most_have_a_lesion(coarse):
    rows = rows_of(coarse)
    for row in rows:
        image, label = read(coarse, row)
        assert image.geometry == label.geometry
        values = set(np.unique(label.voxels).tolist())
        assert values - {2} == {0, 1}
        assert (2 in values) == (row["lesion"] == "yes")
        assert (label.voxels > 0).mean() > 0.005
    assert sum(row["lesion"] == "yes" for row in rows) > 0.7 * len(rows)


def test_hospitals_differ_in_grid_scale_and_scanner(coarse):
    first = {row["site"]: row for row in reversed(rows_of(coarse))}
    images = [read(coarse, row)[0] for row in first.values()]
    assert len({image.geometry.spacing_mm for image in images}) == 4
    assert len({image.geometry.shape for image in images}) == 4
    assert len({row["scanner"] for row in first.values()}) == 4
    brightest = sorted(float(image.voxels.max()) for image in images)
    assert brightest[-1] > 8 * brightest[0]


def test_a_rule_learnt_at_one_hospital_is_worse_at_another(coarse):
    def accuracy(cut, organ, lesion):
        return ((organ > cut).mean() + (lesion < cut).mean()) / 2

    organ, lesion = normalised_tissue(coarse, "hospital-1")
    cut = (organ.mean() + lesion.mean()) / 2
    elsewhere = accuracy(cut, *normalised_tissue(coarse, "hospital-2"))
    assert accuracy(cut, organ, lesion) > 0.85
    assert elsewhere < accuracy(cut, organ, lesion) - 0.1


def test_the_default_grid_of_the_first_hospital_is_small_enough_to_train_in_minutes(tmp_path):
    folder = write_phantoms(tmp_path / "p", PhantomSettings(sites=1, cases=1))
    image, _ = read(folder, rows_of(folder)[0])
    assert image.geometry.shape == (48, 48, 32)
    assert image.geometry.spacing_mm == pytest.approx((2.0, 2.0, 3.0))


def test_two_dimensional_phantoms_keep_their_spacing(tmp_path):
    folder = write_phantoms(tmp_path / "p", PhantomSettings(cases=2, spatial_dims=2))
    for row in rows_of(folder):
        image, label = read(folder, row, spatial_dims=2)
        assert label.voxels.max() > 0
        assert len(image.geometry.shape) == 2
    assert image.geometry.spacing_mm == pytest.approx((1.0, 1.0))


def test_more_hospitals_than_scanners_differ_still(tmp_path):
    folder = write_phantoms(tmp_path / "p", PhantomSettings(sites=6, cases=1, voxel_mm=8.0))
    assert len({row["scanner"] for row in rows_of(folder)}) == 6


def test_a_patient_scanned_twice_keeps_the_anatomy(tmp_path):
    folder = write_phantoms(tmp_path / "p", PhantomSettings(1, 4, cases_per_patient=2, voxel_mm=COARSE))
    (one, one_label), (two, two_label), (_, other_label), _ = (read(folder, row) for row in rows_of(folder))
    assert [row["patient_id"][-3:] for row in rows_of(folder)] == ["000", "000", "001", "001"]
    assert np.array_equal(one_label.voxels, two_label.voxels)
    assert not np.array_equal(one.voxels, two.voxels)
    assert not np.array_equal(one_label.voxels, other_label.voxels)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sites": 0},
        {"cases": 0},
        {"spatial_dims": 4},
        {"seed": -1},
        {"cases_per_patient": 0},
        {"voxel_mm": 0.0},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(PhantomSettingsError, match=f"{name} is .*, but must be"):
        PhantomSettings(**wrong)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(UnusableFolderError, match=r"not empty\. Choose another folder"):
        write_phantoms(tmp_path, PhantomSettings(sites=1, cases=1, voxel_mm=8.0))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_writing_leaves_nothing(tmp_path, monkeypatch, error):
    def interrupted(*_):
        raise error

    monkeypatch.setattr(phantoms, "write_label", interrupted)
    with pytest.raises((KeyboardInterrupt, UnusableFolderError)):
        write_phantoms(tmp_path / "p", PhantomSettings(sites=1, cases=1, voxel_mm=8.0))
    assert list(tmp_path.iterdir()) == []
