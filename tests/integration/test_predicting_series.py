"""`medseg-site predict` on folders of DICOM: results on the series' own grid, and what is held or flagged."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from command_line import Outcome, caller
from enrolment import make_site
from site_with_model import SURE, UNSURE, make_site_with_model, scope_of
from written_series import OBLIQUE, write_series

from medseg_client.models import models_of
from medseg_core.imaging.dicom.scan import scan
from medseg_core.imaging.dicom.segmentation import read_segmentation
from medseg_core.imaging.dicom.series import read_series
from medseg_core.imaging.io import read_image, write_image
from medseg_core.learning.file_prediction import image_case, segment_case
from medseg_core.learning.model_package import read_model
from medseg_core.learning.scope import Moments, Scope

Predict = Callable[..., Outcome]
SPACING = (0.8, 1.1, 3.0)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Predict:
    return caller(monkeypatch, capsys, "medseg-site")


def scanned(folder: Path, name: str = "ct", **attributes: Any) -> Path:
    voxels = np.random.default_rng(2).integers(-200, 300, (24, 20, 9)).astype(np.int16)
    write_series(folder / name, voxels, spacing_mm=SPACING, **attributes)
    return folder / name


def predicted(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "prediction.json").read_text())


def site_of(tmp_path: Path, scope: Scope | None) -> Path:
    return make_site_with_model(tmp_path, scope).root


@pytest.mark.parametrize("way", [{}, {"directions": OBLIQUE, "is_reversed": True}], ids=["axial", "oblique"])
def test_the_segmentation_is_what_the_model_draws_on_the_same_volume(
    tmp_path: Path, call: Predict, way: dict[str, Any]
) -> None:
    site, series = make_site_with_model(tmp_path, scope_of()), scanned(tmp_path, **way)

    told = call("predict", site.root, "--image", series, "--out", tmp_path / "out")

    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("ct: segmented, uncertainty ")
    (found,) = scan(series).series
    volume = read_series(found)
    write_image(tmp_path / "same.nii.gz", volume.voxels[0], volume.geometry)
    model = read_model(models_of(site).in_use())
    expected = segment_case(model, image_case([tmp_path / "same.nii.gz"])).labels
    assert expected.any()
    segments = read_segmentation(tmp_path / "out/ct/segmentation.dcm", volume.geometry)
    assert [segment.name for segment in segments] == ["organ", "lesion"]
    for value, segment in enumerate(segments, start=1):
        np.testing.assert_array_equal(segment.mask, expected == value)


def test_volumes_are_those_of_the_voxels(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path)
    call("predict", site, "--image", series, "--out", tmp_path / "out")
    document = predicted(tmp_path / "out/ct")
    segmentation = hd.seg.segread(tmp_path / "out/ct/segmentation.dcm")
    for number, label in enumerate(("organ", "lesion"), start=1):
        mask = segmentation.get_volume(segment_numbers=[number]).array
        told = document["labels"][label]
        assert told["voxels"] == int((mask > 0).sum())
        assert told["volume_ml"] == pytest.approx(told["voxels"] * math.prod(SPACING) / 1000)
    report = hd.sr.srread(tmp_path / "out/ct/report.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    volumes = [float(g.get_measurements()[0].value) for g in groups]
    assert volumes == [pytest.approx(found["volume_ml"]) for found in document["labels"].values()]


def test_the_result_names_model_and_series(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path)
    call("predict", site, "--image", series, "--out", tmp_path / "out")
    document, (found,) = predicted(tmp_path / "out/ct"), scan(series).series
    assert document["notice"] == "Research use only, not a medical device."
    assert document["model"]["run"] == "run-7"
    assert document["series_uids"] == [found.series_uid]
    segmentation = pydicom.dcmread(tmp_path / "out/ct/segmentation.dcm")
    assert segmentation.DeviceSerialNumber == document["model"]["weights_sha256"]
    assert segmentation.StudyInstanceUID == found.study_uid
    kind = segmentation.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert kind.CodeMeaning == "Liver"


def test_maps_lie_on_the_grid_of_the_series(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path, directions=OBLIQUE)
    call("predict", site, "--image", series, "--out", tmp_path / "out")
    geometry = read_series(scan(series).series[0]).geometry
    for name, most in (("entropy", math.log(3)), ("disagreement", math.log(3))):
        path = tmp_path / f"out/ct/{name}.nii.gz"
        volume = read_image(path, spatial_dims=3, channels=1, case_id="map")
        assert volume.geometry.shape == geometry.shape
        np.testing.assert_allclose(volume.geometry.origin_mm, geometry.origin_mm, atol=1e-3)
        assert 0 <= volume.voxels.min() <= volume.voxels.max() <= most + 1e-5


def test_an_uncertain_case_is_flagged_everywhere(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of(UNSURE)), scanned(tmp_path)
    told = call("predict", site, "--image", series, "--out", tmp_path / "out")
    assert told.code == 0
    assert told.out.startswith("ct: flagged, look at it with care: uncertainty ")
    assert predicted(tmp_path / "out/ct")["state"] == "flagged"
    for name in ("segmentation.dcm", "report.dcm"):
        dataset = pydicom.dcmread(tmp_path / "out/ct" / name)
        assert dataset.SeriesDescription == "Research use only; uncertain; organs"


def test_a_scan_of_another_modality_is_held_and_gets_no_segmentation(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path, "mr", modality="MR")
    told = call("predict", site, "--image", series, "--out", tmp_path / "out")
    assert told.code == 1
    assert "mr: held, channel ct: its modality is MR, trained on was CT. No segmentation" in told.out
    assert [path.name for path in (tmp_path / "out/mr").iterdir()] == ["prediction.json"]
    document = predicted(tmp_path / "out/mr")
    assert document["state"] == "held"
    assert document["reasons"] == ["channel ct: its modality is MR, trained on was CT"]


def test_a_held_case_is_segmented_if_that_is_asked_for_and_says_so(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path, "mr", modality="MR")
    told = call("predict", site, "--image", series, "--out", tmp_path / "out", "--force")
    assert told.code == 0
    assert "mr: held, channel ct: its modality is MR, trained on was CT; segmented all the same" in told.out
    assert predicted(tmp_path / "out/mr")["state"] == "held"
    segmentation = pydicom.dcmread(tmp_path / "out/mr/segmentation.dcm")
    assert segmentation.SeriesDescription == "Research use only; outside training; organs"


@pytest.mark.parametrize(
    ("feature", "reason"),
    [
        (
            {"spacing__2": Moments(n=9, mean=0.0, sd=0.05)},
            "its head-foot spacing is 3 mm, trained on were 0.8",
        ),
        ({"p50__0": Moments(n=9, mean=3.0, sd=0.05)}, "channel ct: 50 % of its voxels are below "),
    ],
)
def test_a_scan_outside_the_ranges_of_training_is_held(
    tmp_path: Path, call: Predict, feature: dict[str, Moments], reason: str
) -> None:
    site, series = site_of(tmp_path, scope_of(SURE, **feature)), scanned(tmp_path)
    told = call("predict", site, "--image", series, "--out", tmp_path / "out")
    assert told.code == 1
    (found,) = predicted(tmp_path / "out/ct")["reasons"]
    assert found.startswith(reason)


def test_a_model_of_an_earlier_release_says_that_it_has_no_threshold(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, None), scanned(tmp_path)
    told = call("predict", site, "--image", series, "--out", tmp_path / "out")
    assert told.code == 0
    assert "no threshold of uncertainty: it came without figures of its validation cases" in told.err
    assert "no ranges of spacing and intensity: it came without figures of its training cases" in told.err
    assert "(no threshold: the model has none)" in told.out
    assert predicted(tmp_path / "out/ct")["uncertainty"]["threshold"] is None


def test_one_faulty_series_does_not_keep_the_others_out(tmp_path: Path, call: Predict) -> None:
    site, good, bad = site_of(tmp_path, scope_of()), scanned(tmp_path), scanned(tmp_path, "gapped")
    (bad / "0004.dcm").unlink()
    told = call("predict", site, "--image", bad, "--image", good, "--out", tmp_path / "out")
    assert told.code == 1
    assert "1 of 2 cases cannot be used" in told.err
    assert "1 slice(s) are missing" in told.err
    assert (tmp_path / "out/ct/segmentation.dcm").is_file()
    assert not (tmp_path / "out/gapped").exists()


def test_a_folder_of_two_series_of_the_modality_is_refused(tmp_path: Path, call: Predict) -> None:
    site = site_of(tmp_path, scope_of())
    scanned(tmp_path / "study", "a")
    scanned(tmp_path / "study", "b")
    told = call("predict", site, "--image", tmp_path / "study", "--out", tmp_path / "out")
    assert told.code == 1
    assert "it holds 2 series of images that fit channel ct where one is needed" in told.err


def test_a_model_of_few_validation_cases_says_how_many_and_what_follows(
    tmp_path: Path, call: Predict
) -> None:
    site, series = site_of(tmp_path, scope_of(Moments(n=3, mean=0.1, sd=0.1))), scanned(tmp_path)
    told = call("predict", site, "--image", series, "--out", tmp_path / "out")
    assert told.code == 0
    assert told.err == (
        "This model has no threshold of uncertainty: it has figures of 3 validation case(s), and fewer than 5 do not "
        "tell what is usual. No case is flagged, which says nothing about how good a result is: look at every one as "
        "if it were.\n"
    )


def test_the_same_command_again_computes_nothing_anew(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path)
    call("predict", site, "--image", series, "--out", tmp_path / "out")
    before = contents(tmp_path / "out")
    told = call("predict", site, "--image", series, "--out", tmp_path / "out")
    assert (told.code, told.out) == (0, "ct: segmented by an earlier call, and left as it is\n")
    assert contents(tmp_path / "out") == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_of_other_images_or_of_another_model_are_never_replaced(
    tmp_path: Path, call: Predict
) -> None:
    site, series, other = site_of(tmp_path, scope_of()), scanned(tmp_path), scanned(tmp_path / "other")
    words = ("--out", tmp_path / "out", "--force")
    call("predict", site, "--image", series, *words)
    before = contents(tmp_path / "out")
    document = json.loads((tmp_path / "out/ct/prediction.json").read_text())

    told = call("predict", site, "--image", other, *words)
    assert (told.code, "ct holds results of another model, or of other images, and is left" in told.err) == (
        1,
        True,
    )
    assert contents(tmp_path / "out") == before

    document["model"]["weights_sha256"] = "0" * 64
    (tmp_path / "out/ct/prediction.json").write_text(json.dumps(document))
    assert "holds results of another model" in call("predict", site, "--image", series, *words).err


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_another_patient(path: Path) -> None:
    made = pydicom.dcmread(path)
    made.PatientID = "id-18"
    made.save_as(path)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (cut_short, "it lacks its kind (SOP class)"),
        (empty, "the file is empty (0 bytes)"),
        (of_another_patient, "its series has files of another patient or study"),
    ],
)
def test_a_series_whose_last_slice_cannot_be_used_is_refused(
    tmp_path: Path, call: Predict, damage: Callable[[Path], None], fault: str
) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path)
    last = series / "0009.dcm"
    whole = last.read_bytes()
    damage(last)
    words = ("predict", site, "--image", series, "--out", tmp_path / "out")

    refused = call(*words, "--force")

    assert refused.code == 1
    assert f"{last}: {fault}: 1 of 9 files cannot be used, and slices may be missing. Copy or" in refused.err
    assert not (tmp_path / "out/ct").exists()
    last.write_bytes(whole)
    assert call(*words).code == 0


def test_of_several_cases_each_fault_names_its_own(tmp_path: Path, call: Predict) -> None:
    site, folders = site_of(tmp_path, scope_of()), [scanned(tmp_path, name) for name in ("a", "b")]
    for folder in folders:
        (folder / "0004.dcm").unlink()
    told = call("predict", site, "--image", folders[0], "--image", folders[1], "--out", tmp_path / "out")
    assert "2 of 2 cases cannot be used" in told.err
    for folder in folders:
        assert f"  {folder}: CT series of 8 file(s): 1 slice(s) are missing: steps of 3, 6 mm." in told.err


def test_what_cannot_be_a_slice_does_not_stand_in_the_way(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path)
    (series / "README").write_text("Exported for Dr. Example")
    (series / "._0009.dcm").write_bytes(b"of another computer")
    (series / "again.dcm").write_bytes((series / "0009.dcm").read_bytes())
    assert call("predict", site, "--image", series, "--out", tmp_path / "out").code == 0


def test_a_folder_that_is_no_result_is_left_alone(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path)
    (tmp_path / "out/ct").mkdir(parents=True)
    (tmp_path / "out/ct/mine.txt").write_text("mine")
    told = call("predict", site, "--image", series, "--out", tmp_path / "out", "--force")
    assert (told.code, "ct is there already, and is left as it is" in told.err) == (1, True)
    assert [path.name for path in (tmp_path / "out/ct").iterdir()] == ["mine.txt"]


def test_a_held_case_stays_held_until_it_is_asked_for_all_the_same(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path, "mr", modality="MR")
    words = ("predict", site, "--image", series, "--out", tmp_path / "out")
    first, again = call(*words), call(*words)
    assert (again.code, again.out) == (1, first.out)
    assert call(*words, "--force").code == 0
    assert (tmp_path / "out/mr/segmentation.dcm").is_file()


def test_a_model_in_a_folder_serves_a_site_that_has_joined_nobody(tmp_path: Path, call: Predict) -> None:
    models = models_of(make_site_with_model(tmp_path / "joined", scope_of()))
    site, _ = make_site(tmp_path / "alone")
    series = scanned(tmp_path)
    words = ("predict", site.root, "--image", series, "--out", tmp_path / "out")
    refused = call(*words)
    assert (refused.code, "or give the folder of a model of your own: --model" in refused.err) == (1, True)
    assert call(*words, "--model", models.in_use()).code == 0
    assert (tmp_path / "out/ct/segmentation.dcm").is_file()


def test_storing_without_a_pacs_is_refused_before_anything_is_computed(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path)
    told = call("predict", site, "--image", series, "--out", tmp_path / "out", "--store")
    assert (told.code, "site.toml names no PACS" in told.err) == (1, True)
    assert not (tmp_path / "out").exists()


def test_files_and_series_are_asked_for_apart(tmp_path: Path, call: Predict) -> None:
    site, series = site_of(tmp_path, scope_of()), scanned(tmp_path)
    told = call("predict", site, "--image", series, "--image", "scan.nii.gz", "--out", tmp_path / "out")
    assert told.code == 2
    assert "scan.nii.gz is no folder and no query of the PACS" in told.err


TWO = [{"name": "ct", "modality": "CT"}, {"name": "mr", "modality": "MR"}]


def test_a_model_of_two_channels_takes_a_folder_for_each(tmp_path: Path, call: Predict) -> None:
    site = make_site_with_model(tmp_path, scope_of(), channels=TWO).root
    ct, mr = scanned(tmp_path), scanned(tmp_path, "mr", modality="MR")
    told = call("predict", site, "--image", f"{ct},{mr}", "--out", tmp_path / "out")
    assert (told.code, told.err) == (0, "")
    (source,) = scan(ct).series
    segmentation = pydicom.dcmread(tmp_path / "out/ct/segmentation.dcm")
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == source.series_uid
    assert len(predicted(tmp_path / "out/ct")["series_uids"]) == 2


def test_channels_are_found_in_one_folder_by_their_modality(tmp_path: Path, call: Predict) -> None:
    site = make_site_with_model(tmp_path, scope_of(), channels=TWO).root
    scanned(tmp_path / "study", "a", modality="MR")
    scanned(tmp_path / "study", "b")
    told = call("predict", site, "--image", tmp_path / "study", "--out", tmp_path / "out")
    assert (told.code, told.err) == (0, "")
    assert (tmp_path / "out/study/segmentation.dcm").is_file()


def test_channels_on_different_grids_are_refused(tmp_path: Path, call: Predict) -> None:
    site = make_site_with_model(tmp_path, scope_of(), channels=TWO).root
    ct, mr = scanned(tmp_path), scanned(tmp_path, "mr", modality="MR", directions=OBLIQUE)
    told = call("predict", site, "--image", f"{ct},{mr}", "--out", tmp_path / "out")
    assert told.code == 1
    assert "case ct: channel mr direction " in told.err


def test_two_folders_of_one_name_are_refused_before_anything_is_computed(
    tmp_path: Path, call: Predict
) -> None:
    site = site_of(tmp_path, scope_of())
    first, second = scanned(tmp_path / "a"), scanned(tmp_path / "b")
    told = call("predict", site, "--image", first, "--image", second, "--out", tmp_path / "out")
    assert (told.code, "would both be segmented into ct" in told.err) == (1, True)
    assert not (tmp_path / "out").exists()


def test_files_cannot_be_sent_to_the_pacs(tmp_path: Path, call: Predict) -> None:
    site = site_of(tmp_path, scope_of())
    told = call("predict", site, "--image", "scan.nii.gz", "--out", tmp_path / "out", "--store")
    assert (told.code, "are for series of DICOM" in told.err) == (2, True)
