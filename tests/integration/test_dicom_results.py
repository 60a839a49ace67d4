"""A label map as DICOM objects: valid, named, and read back voxel for voxel, however the series lies in space."""

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_files import make_enhanced, make_slice, only_series, save
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.uid import ComputedRadiographyImageStorage
from written_series import AXIAL, CORONAL, OBLIQUE, faults_by_dciodvfy, write_series

from medseg_core.dicom_errors import DicomError
from medseg_core.imaging.dicom.result_facts import Maker, Meaning
from medseg_core.imaging.dicom.results import Found, write_results
from medseg_core.imaging.dicom.scan import Series, scan
from medseg_core.imaging.dicom.segmentation import read_segmentation
from medseg_core.imaging.dicom.series import read_series, read_slices
from medseg_core.imaging.measurements import measure
from medseg_core.types import Geometry

SHAPE = (12, 10, 7)
MAKER = Maker("liver", "run-7", "ab" * 32, "0.1.0")
MEANINGS = (
    Meaning("liver", kind=("10200004", "SCT", "Liver")),
    Meaning(
        "lesion",
        ("49755003", "SCT", "Morphologically Abnormal Structure"),
        ("108369006", "SCT", "Neoplasm"),
    ),
    Meaning("something_with_a_long_name"),
)
WAYS = {
    "axial": {"directions": AXIAL},
    "coronal": {"directions": CORONAL},
    "oblique": {"directions": OBLIQUE},
    "reversed": {"directions": AXIAL, "is_reversed": True},
    "oblique and reversed": {"directions": OBLIQUE, "is_reversed": True},
}


def labels() -> np.ndarray:
    """Two labels in the middle slices, none in the outer ones, and a third nowhere."""
    drawn = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    drawn[..., 0] = drawn[..., -2:] = 0
    return drawn


def written(
    folder: Path, found: np.ndarray | None = None, remark: str = "", **way: Any
) -> tuple[Series, list[str]]:
    """A series and the results for it in `folder`."""
    found = labels() if found is None else found
    voxels = np.random.default_rng(1).integers(-100, 200, found.shape).astype(np.int16)
    uids = write_series(folder / "series", voxels, **way)
    (series,) = scan(folder / "series").series
    values = {meaning.name: n for n, meaning in enumerate(MEANINGS, start=1)}
    measured = measure(found, read_series(series).geometry, values)
    write_results(folder, series, Found(found, MEANINGS, measured, remark), MAKER)
    return series, uids


def texts(dataset: Dataset) -> str:
    return str(dataset.to_json())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_slice_reads_back_as_it_was_drawn(tmp_path: Path, way: dict[str, Any]) -> None:
    _, uids = written(tmp_path, **way)
    segmentation = hd.seg.segread(tmp_path / "segmentation.dcm")
    frames = segmentation.get_pixels_by_source_instance(uids, combine_segments=True)  # (k, j, i)
    np.testing.assert_array_equal(frames.T, labels())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_our_own_reading_gives_the_same_masks_on_the_grid_of_the_series(
    tmp_path: Path, way: dict[str, Any]
) -> None:
    series, _ = written(tmp_path, **way)
    segments = read_segmentation(tmp_path / "segmentation.dcm", read_series(series).geometry)
    assert [segment.name for segment in segments] == [meaning.name for meaning in MEANINGS]
    for value, segment in enumerate(segments, start=1):
        np.testing.assert_array_equal(segment.mask, labels() == value)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_segmentation_has_the_grid_of_the_series(tmp_path: Path, way: dict[str, Any]) -> None:
    series, _ = written(tmp_path, **way)
    expected: Geometry = read_series(series).geometry
    volume = hd.seg.segread(tmp_path / "segmentation.dcm").get_volume(combine_segments=True)
    assert volume.spatial_shape == tuple(reversed(SHAPE))
    corner = np.asarray(volume.affine) @ [0, 0, 0, 1]
    last = np.asarray(volume.affine) @ [SHAPE[2] - 1, 0, 0, 1]
    step = np.reshape(expected.direction, (3, 3))[:, 2] * expected.spacing[2] * (SHAPE[2] - 1)
    ends = sorted([tuple(np.round(corner[:3], 3)), tuple(np.round(last[:3], 3))])
    origin = np.asarray(expected.origin_mm)
    assert ends == sorted([tuple(np.round(origin, 3)), tuple(np.round(origin + step, 3))])


def test_a_validator_finds_no_error(tmp_path: Path) -> None:
    written(tmp_path)
    assert faults_by_dciodvfy(tmp_path / "segmentation.dcm") == []
    assert faults_by_dciodvfy(tmp_path / "report.dcm") == []


def test_every_image_of_the_series_is_named(tmp_path: Path) -> None:
    series, uids = written(tmp_path)
    segmentation = pydicom.dcmread(tmp_path / "segmentation.dcm")
    (referenced,) = segmentation.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == series.series_uid
    assert {i.ReferencedSOPInstanceUID for i in referenced.ReferencedInstanceSequence} == set(uids)
    assert segmentation.NumberOfFrames == len(MEANINGS) * SHAPE[2]
    report = pydicom.dcmread(tmp_path / "report.dcm")
    assert segmentation.SOPInstanceUID in texts(report)
    assert all(uid in texts(report) for uid in uids)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (None, "Doe^Jane"),
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 144", "Иванов^Иван"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_names_keep_their_letters_beside_those_of_the_task(
    tmp_path: Path, charset: str | list[str] | None, name: str
) -> None:
    way = {} if charset is None else {"SpecificCharacterSet": charset}
    (tmp_path / "series").mkdir()
    write_series(tmp_path / "series", np.zeros(SHAPE, np.int16), PatientName=name, **way)
    (series,) = scan(tmp_path / "series").series
    measured = measure(labels(), read_series(series).geometry, {"Schädel": 1})
    found = Found((labels() == 1).astype(np.uint8), [Meaning("Schädel")], measured)
    paths = write_results(tmp_path, series, found, MAKER)

    segmentation, report = map(pydicom.dcmread, paths)
    assert segmentation.SegmentSequence[0].SegmentLabel == "Schädel"
    assert segmentation.PatientName == report.PatientName == name
    assert not [fault for path in paths for fault in faults_by_dciodvfy(path)]


def test_nonsense_about_the_patient_is_blank_and_free_text_stays_behind(tmp_path: Path) -> None:
    told = {"PatientBirthDate": "unknown", "PatientSex": "W", "StudyDate": "2020.1", "StudyTime": "25"}
    with disable_value_validation():
        written(tmp_path, PatientComments="seen by Dr. Who", **told)

    for name in ("segmentation.dcm", "report.dcm"):
        result = pydicom.dcmread(tmp_path / name)
        assert not any(result.get(keyword) for keyword in told)
        assert "Who" not in texts(result)


INVALID_NAMES = {
    "overlong": {"PatientName": f"{'Doe' * 30}^Jane", "PatientID": "9" * 70},
    "malformed": {"PatientName": "a^b^c^d^e^f^g", "AccessionNumber": "A" * 20},
}


@pytest.mark.parametrize("told", INVALID_NAMES.values(), ids=INVALID_NAMES)
def test_invalid_names_and_numbers_are_repeated_as_the_images_have_them(
    tmp_path: Path, told: dict[str, str]
) -> None:
    with disable_value_validation():
        written(tmp_path, **told)

        for name in ("segmentation.dcm", "report.dcm"):
            result = pydicom.dcmread(tmp_path / name)
            assert {keyword: str(result[keyword].value) for keyword in told} == told
            faults = faults_by_dciodvfy(tmp_path / name)[:-1]  # the last says that there are others
            assert all(any(value in fault for value in told.values()) for fault in faults)


@pytest.mark.parametrize(
    "told", [{"StudyDescription": "x" * 80}, {"StudyDescription": "x\\y"}, {"PatientAge": "45"}]
)
def test_what_a_result_may_go_without_is_repeated_only_where_it_is_valid(
    tmp_path: Path, told: dict[str, str]
) -> None:
    valid = {"StudyDescription": "abdomen", "PatientAge": "045Y"}
    with disable_value_validation():
        written(tmp_path, **valid | told)

    result = pydicom.dcmread(tmp_path / "segmentation.dcm")
    assert {key: result[key].value for key in valid if key in result} == {
        key: value for key, value in valid.items() if key not in told
    }
    assert faults_by_dciodvfy(tmp_path / "segmentation.dcm") == []
    assert faults_by_dciodvfy(tmp_path / "report.dcm") == []


def test_the_model_and_the_notice_stand_in_both(tmp_path: Path) -> None:
    written(tmp_path, remark="uncertain")
    for name in ("segmentation.dcm", "report.dcm"):
        dataset = pydicom.dcmread(tmp_path / name)
        assert dataset.SeriesDescription == "Research use only; uncertain; liver"
        assert MAKER.weights_sha256 in texts(dataset)
        assert MAKER.run in texts(dataset)
        assert "Research use only, not a medical device" in texts(dataset)
    segment = pydicom.dcmread(tmp_path / "segmentation.dcm").SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "run-7"


def test_segments_have_the_codes_of_the_task_or_one_of_our_own(tmp_path: Path) -> None:
    written(tmp_path)
    segments = pydicom.dcmread(tmp_path / "segmentation.dcm").SegmentSequence
    kinds = [s.SegmentedPropertyTypeCodeSequence[0] for s in segments]
    assert [(k.CodeValue, k.CodingSchemeDesignator, k.CodeMeaning) for k in kinds] == [
        ("10200004", "SCT", "Liver"),
        ("108369006", "SCT", "Neoplasm"),
        ("something_with_a", "99MEDSEG", "something_with_a_long_name"),
    ]
    categories = [s.SegmentedPropertyCategoryCodeSequence[0].CodeValue for s in segments]
    assert categories == ["91723000", "49755003", "91723000"]


def test_the_report_says_what_was_measured(tmp_path: Path) -> None:
    box = np.zeros(SHAPE, np.uint8)
    box[2:5, 1:5, 3:5] = 1  # 3 x 4 x 2 voxels of 1 x 2 x 5 mm
    written(tmp_path, box, spacing_mm=(1.0, 2.0, 5.0))
    report = hd.sr.srread(tmp_path / "report.dcm")
    (group, *_) = report.content.get_volumetric_roi_measurement_groups()
    found = {m.name.meaning: (float(m.value), m.unit.value) for m in group.get_measurements()}
    assert found["Volume"] == (pytest.approx(24 * 10 / 1000), "mL")
    assert found["Maximum 3D diameter"] == (pytest.approx(np.sqrt(3**2 + 8**2 + 10**2)), "mm")
    assert found["Long axis"] == (pytest.approx(np.sqrt(3**2 + 8**2)), "mm")


def test_frames_of_one_file_are_matched_in_whatever_order_they_stand(tmp_path: Path) -> None:
    save(make_enhanced(5, order=[3, 0, 4, 1, 2]), tmp_path / "series/all.dcm")
    series = only_series(tmp_path / "series")
    geometry = read_slices(series).geometry
    drawn = np.random.default_rng(0).integers(0, 2, geometry.shape).astype(np.uint8)
    drawn[..., 2] = 0
    one = MEANINGS[:1]
    found = Found(drawn, one, measure(drawn, geometry, {"liver": 1}))

    paths = write_results(tmp_path, series, found, MAKER)

    (segment,) = read_segmentation(paths[0], geometry)
    np.testing.assert_array_equal(segment.mask, drawn == 1)
    assert [faults_by_dciodvfy(path) for path in paths] == [[], []]


@pytest.mark.parametrize("frame_of_reference", [None, "1.2.3.9"])
def test_an_x_ray_gets_a_segmentation_of_one_frame(tmp_path: Path, frame_of_reference: str | None) -> None:
    image = make_slice(
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        FrameOfReferenceUID=frame_of_reference,
        Modality="CR",
    )
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    save(image, tmp_path / "series/one.dcm")
    series = only_series(tmp_path / "series")
    geometry = read_slices(series).geometry
    drawn = np.random.default_rng(0).integers(0, 2, geometry.shape).astype(np.uint8)
    found = Found(drawn, MEANINGS[:1], measure(drawn, geometry, {"liver": 1}))

    paths = write_results(tmp_path, series, found, MAKER)

    pixels = np.squeeze(pydicom.dcmread(paths[0]).pixel_array)
    np.testing.assert_array_equal(pixels.T, drawn)
    (segment,) = read_segmentation(paths[0], geometry)
    np.testing.assert_array_equal(segment.mask, drawn == 1)
    assert [faults_by_dciodvfy(path) for path in paths] == [[], []]


def test_a_study_id_that_is_too_long_is_cut(tmp_path: Path) -> None:
    with disable_value_validation():
        written(tmp_path, StudyID="a" * 20)
    assert pydicom.dcmread(tmp_path / "segmentation.dcm").StudyID == "a" * 16
    assert faults_by_dciodvfy(tmp_path / "segmentation.dcm") == []


def test_a_series_of_which_an_image_is_gone_gets_no_result(tmp_path: Path) -> None:
    series, _ = written(tmp_path)
    series.files[2].unlink()
    with pytest.raises(DicomError):
        write_results(tmp_path / "again", series, Found(labels(), MEANINGS, {}), MAKER)
    assert not (tmp_path / "again").exists()
