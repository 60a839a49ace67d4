"""From the PACS to the PACS: a real series is found, segmented, and its segmentation lies beside it."""

import json
import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from command_line import caller
from real_pacs import LOGIN, RealPacs, running_pacs
from site_with_model import make_site_with_model, scope_of
from written_series import faults_by_dciodvfy

from medseg_client.models import models_of
from medseg_client.pacs import SeriesQuery
from medseg_client.site_folder import SiteFolder
from medseg_core.imaging.dicom.scan import Series, scan
from medseg_core.imaging.dicom.segmentation import read_segmentation
from medseg_core.imaging.dicom.series import read_slices
from medseg_core.learning.model_package import read_model
from medseg_core.learning.scope import Moments, Scope
from medseg_core.learning.series_prediction import SeriesPrediction, predict_series
from medseg_core.pacs_errors import NothingFoundError

DICOM = Path(__file__).parents[3] / "shared" / "data" / "dicom"
CT = DICOM / "sts/STS_001/CT/image"
pytestmark = [
    pytest.mark.skipif(not DICOM.is_dir(), reason=f"the public data sets are not in {DICOM}"),
    # the public headers have identifiers longer than DICOM allows
    pytest.mark.filterwarnings("ignore:The value length:UserWarning"),
    # pynetdicom 3.0 leaves a socket to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[RealPacs]:
    with running_pacs(tmp_path / "pacs") as running:
        for path in sorted(CT.iterdir()):
            running.put(path)
        yield running


def site_beside(pacs: RealPacs, root: Path, way: str, scope: Scope | None = None) -> SiteFolder:
    """A site whose model reads CT, and whose site.toml names the PACS."""
    site = make_site_with_model(
        root, scope or scope_of(), patch_size=(64, 64, 32), spacing_mm=[2.0, 2.0, 4.0]
    )
    lines = {
        "DICOMweb": f'[pacs.dicomweb]\nurl = "{pacs.url}"\n',
        "DIMSE": f'[pacs.dimse]\nhost = "127.0.0.1"\nport = {pacs.dicom_port}\nae_title = "ARCHIVE"\n',
    }
    with (site.root / "site.toml").open("a") as settings:
        settings.write(f"\n{lines[way]}")
    site.pacs_login.touch(mode=0o600)
    site.pacs_login.write_text(f"{LOGIN}\n")
    return site


@pytest.mark.parametrize("way", ["DICOMweb", "DIMSE"])
def test_a_series_of_the_pacs_gets_its_segmentation_and_report_there(
    pacs: RealPacs,
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site, call = site_beside(pacs, tmp_path, way), caller(monkeypatch, capsys, "medseg-site")
    (source,) = scan(CT).series

    query = f"pacs:patient={source.patient_id},modality=CT"
    told = call("predict", site.root, "--image", query, "--out", tmp_path / "out", "--store")

    assert told.code == 0, told.err
    assert re.search(r"series .* 1/1", told.err)
    assert re.search(rf"files fetched .* {len(source.files)}/", told.err)
    assert f"{source.series_uid}: segmentation and report are in the PACS at " in told.out
    reader = pacs.by_web()
    stored = {
        modality: reader.find_series(SeriesQuery(study=source.study_uid, modality=modality))
        for modality in ("SEG", "SR")
    }
    files = {}
    for modality, (found,) in stored.items():
        assert found.description == "Research use only; organs"
        (files[modality],) = reader.fetch_series(found, tmp_path / modality)
        assert faults_by_dciodvfy(files[modality]) == []

    from_files = predict_series(read_model(models_of(site).in_use()), [source], name="from files").drawn
    assert from_files is not None
    assert len(np.unique(from_files.labels)) == 3
    for value, segment in enumerate(read_segmentation(files["SEG"], read_slices(source).geometry), start=1):
        np.testing.assert_array_equal(segment.mask, from_files.labels == value)

    segmentation = pydicom.dcmread(files["SEG"])
    (referenced,) = segmentation.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == source.series_uid
    assert len(referenced.ReferencedInstanceSequence) == len(source.files)
    document = json.loads((tmp_path / f"out/{source.series_uid}/prediction.json").read_text())
    groups = hd.sr.srread(files["SR"]).content.get_volumetric_roi_measurement_groups()
    volumes = [float(group.get_measurements()[0].value) for group in groups]
    assert volumes == [pytest.approx(found["volume_ml"]) for found in document["labels"].values()]


def test_of_a_held_series_nothing_goes_to_the_pacs(
    pacs: RealPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse = Moments(n=9, mean=2.0, sd=0.0)  # of ln mm
    site = site_beside(pacs, tmp_path, "DICOMweb", scope_of(spacing__2=coarse))
    call = caller(monkeypatch, capsys, "medseg-site")
    (source,) = scan(CT).series

    told = call(
        "predict", site.root, "--image", f"pacs:series={source.series_uid},study={source.study_uid}",
        "--out", tmp_path / "out", "--store",
    )  # fmt: skip

    assert told.code == 1
    assert "held, its head-foot spacing is 3.27 mm, trained on were 5.91 to 9.24 mm" in told.out
    with pytest.raises(NothingFoundError):
        pacs.by_web().find_series(SeriesQuery(study=source.study_uid, modality="SEG"))


def test_results_that_the_pacs_did_not_take_are_sent_by_the_same_command_later(
    pacs: RealPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site, call = site_beside(pacs, tmp_path, "DICOMweb"), caller(monkeypatch, capsys, "medseg-site")
    (source,) = scan(CT).series
    words = ("predict", site.root, "--image", CT, "--out", tmp_path / "out", "--store")
    settings = site.root / "site.toml"
    good = settings.read_text()
    settings.write_text(good.replace(pacs.url, "http://127.0.0.1:9/dicom-web"))
    away = call(*words)
    assert (away.code, "nothing answers there" in away.err) == (1, True)
    assert f"image: its results are in {tmp_path}/out/image; the same command sends them later" in away.out
    made = (tmp_path / "out/image/segmentation.dcm").read_bytes()

    settings.write_text(good)
    sent = call(*words)

    assert (sent.code, "image: segmented by an earlier call" in sent.out) == (0, True)
    reader = pacs.by_web()
    (found,) = reader.find_series(SeriesQuery(study=source.study_uid, modality="SEG"))
    (stored,) = reader.fetch_series(found, tmp_path / "SEG")
    assert pydicom.dcmread(stored).SOPInstanceUID == pydicom.dcmread(BytesIO(made)).SOPInstanceUID
    assert (tmp_path / "out/image/segmentation.dcm").read_bytes() == made


def test_what_is_fetched_lies_beside_the_results_and_is_cleared_after_a_power_cut(
    pacs: RealPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site, call = site_beside(pacs, tmp_path, "DICOMweb"), caller(monkeypatch, capsys, "medseg-site")
    left = tmp_path / "out/.fetched/series/000000.dcm"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a call that was killed")
    seen = []

    def looked_at(model: object, series: Sequence[Series], **words: object) -> SeriesPrediction:
        seen.extend((path.parent, path.parents[1].stat().st_mode & 0o777) for path in series[0].files)
        return predict_series(model, series, **words)

    monkeypatch.setattr("medseg_client.series_predictor.predict_series", looked_at)
    (source,) = scan(CT).series
    query = f"pacs:study={source.study_uid},modality=CT"
    told = call("predict", site.root, "--image", query, "--image", query, "--out", tmp_path / "out")

    assert told.code == 0, told.err
    assert set(seen) == {(left.parent, 0o700)}
    assert len(seen) == len(source.files)
    assert not (tmp_path / "out/.fetched").exists()
