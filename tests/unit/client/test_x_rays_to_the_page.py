"""An X-ray all the way at a site: segmented by `predict`, and shown by `review` as it was drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import caller
from dicom_files import make_xray, only_series, save
from site_with_model import make_site_with_model, scope_of

from medseg_client.review.answers import Answers, Material
from medseg_client.review.series_cases import series_cases
from medseg_core.imaging.dicom.segmentation import read_segmentation
from medseg_core.imaging.dicom.series import read_slices

ROWS, COLUMNS = 45, 37  # 1665 pixels: no whole number of bytes in a SEG
WHO = dict.fromkeys(
    ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
     "ReferringPhysicianName"), ""
)  # fmt: skip


@pytest.mark.parametrize("spacing", [[0.5, 0.7], None], ids=["millimetres", "pixels"])
def test_an_x_ray_is_segmented_and_shown_with_its_segmentation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spacing: list[float] | None,
) -> None:
    call = caller(monkeypatch, capsys, "medseg-site")
    pixels = np.random.default_rng(0).integers(0, 4096, (ROWS, COLUMNS), np.uint16)
    made = make_xray(
        pixels, PixelSpacing=spacing, FrameOfReferenceUID=None, PatientOrientation=["L", "F"], **WHO
    )
    save(made, tmp_path / "chest/a.dcm")
    channels: list[dict[str, Any]] = [{"name": "film", "modality": "XR"}]
    site = make_site_with_model(
        tmp_path, scope_of(), patch_size=(16, 16), spatial_dims=2, spacing_mm=None, channels=channels
    )

    told = call("predict", site.root, "--image", tmp_path / "chest", "--out", tmp_path / "out")

    assert (told.code, told.err) == (0, "")
    answers = Answers(Material(series_cases(tmp_path / "chest", tmp_path / "out", None)))
    image = json.loads(answers.answer("case/chest/image.json").body)
    labels = json.loads(answers.answer("case/chest/labels.json").body)
    assert list(image["planes"]) == ["image"]
    shown = np.frombuffer(answers.answer("case/chest/image/0/layer-0").body, "<u2").reshape(ROWS, COLUMNS)
    np.testing.assert_array_equal(shown, pixels)
    assert (labels["names"], labels["truth"], labels["prediction"]) == (["organ", "lesion"], False, True)
    assert labels["entropy"] is not None
    drawn = np.frombuffer(answers.answer("case/chest/image/0/prediction").body, np.uint8)
    geometry = read_slices(only_series(tmp_path / "chest")).geometry
    segments = read_segmentation(tmp_path / "out/chest/segmentation.dcm", geometry)
    assert any(segment.mask.any() for segment in segments)
    for value, segment in enumerate(segments, start=1):
        np.testing.assert_array_equal(drawn.reshape(ROWS, COLUMNS) == value, segment.mask.T)
