"""Stored numbers become Hounsfield units, uptake values or grey values that mean the same in every file."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_files import (
    expected_voxels,
    items,
    make_slice,
    make_xray,
    only_series,
    save,
    stored,
    write_series,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)

from medseg_core.dicom_errors import DicomHeaderError, PetUnitsError, UnsupportedDicomError
from medseg_core.imaging.dicom.series import read_series

DATA = Path(__file__).parents[3] / "shared" / "data" / "dicom"
published = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published sets are not at {DATA}")


def voxels_of(folder):
    return read_series(only_series(folder)).voxels[0]


def test_each_slice_has_its_own_slope_and_intercept(tmp_path):
    def rescale(k, made):
        made.RescaleSlope, made.RescaleIntercept = k + 1, -1024 + k

    write_series(tmp_path, 3, alter=rescale)

    expected = expected_voxels(3) * np.asarray([1, 2, 3]) + np.asarray([-1024, -1023, -1022])
    np.testing.assert_array_equal(voxels_of(tmp_path), expected)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_ct_without_hounsfield_units_is_refused(tmp_path, keyword):
    write_series(tmp_path, **{keyword: None})

    with pytest.raises(DicomHeaderError, match="its RescaleSlope or RescaleIntercept is missing"):
        voxels_of(tmp_path)


def test_an_mr_without_slope_is_as_stored(tmp_path):
    write_series(
        tmp_path, 2, Modality="MR", SOPClassUID=MRImageStorage, RescaleSlope=None, RescaleIntercept=None
    )

    np.testing.assert_array_equal(voxels_of(tmp_path), expected_voxels(2))


def test_monochrome1_does_not_turn_hounsfield_units(tmp_path):
    write_series(tmp_path, 2, PhotometricInterpretation="MONOCHROME1")

    np.testing.assert_array_equal(voxels_of(tmp_path), expected_voxels(2))


def test_bits_beyond_those_stored_do_not_count(tmp_path):
    pixels = stored(0).astype(np.uint16)
    noisy = pixels | 0xF000  # an overlay, as old files keep it
    made = make_slice(pixels=noisy, BitsStored=12, HighBit=11)
    save(made, tmp_path / "a.dcm")

    np.testing.assert_array_equal(voxels_of(tmp_path)[..., 0], pixels.T)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_slices_are_as_uncompressed_ones(tmp_path, syntax):
    def compress(k, made):
        if syntax == JPEG2000Lossless:
            return _as_jpeg_2000(made)
        made.compress(syntax, generate_instance_uid=False)

    write_series(tmp_path, 2, alter=compress)

    np.testing.assert_array_equal(voxels_of(tmp_path), expected_voxels(2))


def _as_jpeg_2000(made):
    """Pydicom has no encoder for it; Pillow writes 16-bit grey without signs."""
    from io import BytesIO

    from PIL import Image
    from pydicom.encaps import encapsulate

    out = BytesIO()
    pixels = np.frombuffer(made.PixelData, np.int16).reshape(made.Rows, made.Columns).astype(np.uint16)
    Image.fromarray(pixels).save(out, format="JPEG2000", no_jp2=True, irreversible=False, num_resolutions=1)
    made.PixelRepresentation = 0
    made.PixelData = encapsulate([out.getvalue()])
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = JPEG2000Lossless


@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="dcmcjpeg (dcmtk) is not here")
def test_jpeg_lossless_is_as_uncompressed(tmp_path):
    for path in write_series(tmp_path / "plain", 2).iterdir():
        packed = tmp_path / "packed" / path.name
        packed.parent.mkdir(exist_ok=True)
        subprocess.run(["dcmcjpeg", "+e1", path, packed], check=True)

    np.testing.assert_array_equal(voxels_of(tmp_path / "packed"), expected_voxels(2))


def test_a_deflated_file_is_as_an_inflated_one(tmp_path):
    def deflate(k, made):
        made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    write_series(tmp_path, 2, alter=deflate)

    np.testing.assert_array_equal(voxels_of(tmp_path), expected_voxels(2))


# ---- published files ---------------------------------------------------------------------------------------


@published
@pytest.mark.parametrize("patient", ["STS_001", "STS_002"])
@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_a_published_series_is_as_itk_reads_it(patient, modality):
    folder = DATA / "sts" / patient / modality / "image"
    volume = read_series(only_series(folder))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    seen = reader.Execute()

    np.testing.assert_allclose(volume.voxels[0], sitk.GetArrayFromImage(seen).T, rtol=1e-6)
    np.testing.assert_allclose(volume.geometry.spacing_mm, seen.GetSpacing())
    np.testing.assert_allclose(volume.geometry.origin_mm, seen.GetOrigin())
    np.testing.assert_allclose(volume.geometry.direction, seen.GetDirection(), atol=1e-9)


@published
@pytest.mark.parametrize("name", ["23x38x3", "24x38x3"])
def test_a_published_multi_frame_file_is_as_its_single_slices(name):
    single = read_series(only_series(DATA / "seg" / name / "image"))
    multi = read_series(only_series(DATA / "seg" / name / "multiframe"))

    assert multi.geometry == single.geometry
    np.testing.assert_array_equal(multi.voxels, single.voxels)


# ---- X-ray -------------------------------------------------------------------------------------------------


def test_an_xray_is_flat_and_has_the_spacing_at_the_patient(tmp_path):
    save(make_xray(ImagerPixelSpacing=[0.2, 0.2]), tmp_path / "a.dcm")
    volume = read_series(only_series(tmp_path))

    assert volume.geometry.shape == (5, 4)
    assert volume.geometry.spacing_mm == (0.5, 0.7)
    np.testing.assert_array_equal(volume.voxels[0], stored(0).T)


def test_an_xray_without_it_has_the_spacing_at_the_detector_or_none(tmp_path):
    save(make_xray(PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.1]), tmp_path / "a" / "a.dcm")
    save(make_xray(PixelSpacing=None), tmp_path / "b" / "b.dcm")

    assert read_series(only_series(tmp_path / "a")).geometry.spacing_mm == (0.1, 0.2)
    assert read_series(only_series(tmp_path / "b")).geometry.spacing_mm is None


def test_bone_is_bright_in_every_xray(tmp_path):
    save(make_xray(PhotometricInterpretation="MONOCHROME1"), tmp_path / "a.dcm")

    np.testing.assert_array_equal(voxels_of(tmp_path), 4095 - stored(0).T)


def test_two_xrays_in_one_series_are_two_cases(tmp_path):
    save(make_xray(), tmp_path / "a.dcm")
    save(make_xray(SOPInstanceUID="1.2.3.4.77"), tmp_path / "b.dcm")

    with pytest.raises(UnsupportedDicomError, match="it holds 2 images, and one X-ray is one case"):
        voxels_of(tmp_path)


# ---- PET ---------------------------------------------------------------------------------------------------

TRACER = {
    "RadionuclideTotalDose": 370e6,
    "RadionuclideHalfLife": 6586.2,
    "RadiopharmaceuticalStartDateTime": "20200102100000",
}


def write_pet(folder, tracer=TRACER, **attributes):
    told = {
        "Modality": "PT", "SOPClassUID": PositronEmissionTomographyImageStorage, "Units": "BQML",
        "CorrectedImage": ["ATTN", "DECY"], "DecayCorrection": "START", "PatientWeight": 70,
        "SeriesDate": "20200102", "SeriesTime": "150000", "AcquisitionDate": "20200102",
        "AcquisitionTime": "114946.2", "RadiopharmaceuticalInformationSequence": [items(**tracer)],
    }  # fmt: skip
    return write_series(folder, 2, **(told | attributes))


def test_becquerels_become_uptake_after_one_half_life(tmp_path):
    write_pet(tmp_path)  # 6586 s after the injection: of 370 MBq 185 are left

    np.testing.assert_allclose(voxels_of(tmp_path), expected_voxels(2) * 70_000 / 185e6, rtol=1e-4)


def test_an_image_corrected_to_the_injection_needs_no_times(tmp_path):
    write_pet(tmp_path, {"RadionuclideTotalDose": 370e6}, DecayCorrection="ADMIN")

    np.testing.assert_allclose(voxels_of(tmp_path), expected_voxels(2) * 70_000 / 370e6, rtol=1e-6)


def test_the_clock_of_the_injection_may_be_of_the_day_before(tmp_path):
    told = {**TRACER, "RadiopharmaceuticalStartTime": "231013.8"}
    del told["RadiopharmaceuticalStartDateTime"]
    write_pet(tmp_path, told, AcquisitionTime="010000")  # 6587 s after

    np.testing.assert_allclose(voxels_of(tmp_path), expected_voxels(2) * 70_000 / 185e6, rtol=1e-3)


@pytest.mark.parametrize("clock", ["1300", "13", "13:00:00", "130000.000000"])
def test_a_clock_may_be_told_without_minutes_or_with_colons(tmp_path, clock):
    told = {**TRACER, "RadiopharmaceuticalStartTime": clock, "RadionuclideHalfLife": 7200}
    del told["RadiopharmaceuticalStartDateTime"]
    write_pet(tmp_path, told, AcquisitionTime="1500")  # 7200 s after

    np.testing.assert_allclose(voxels_of(tmp_path), expected_voxels(2) * 70_000 / 185e6, rtol=1e-6)


def test_an_injection_in_universal_time_is_put_on_the_scanners_clock(tmp_path):
    told = {**TRACER, "RadiopharmaceuticalStartDateTime": "20200102080000.00+0000"}
    write_pet(tmp_path, told, TimezoneOffsetFromUTC="+0200")

    np.testing.assert_allclose(voxels_of(tmp_path), expected_voxels(2) * 70_000 / 185e6, rtol=1e-4)


@pytest.mark.parametrize("series_time", ["114946", "150000"])  # of the scan; of a series made anew
def test_decay_runs_to_the_start_of_the_series_unless_it_was_made_later(tmp_path, series_time):
    is_new = series_time == "150000"
    write_pet(tmp_path, SeriesTime=series_time, AcquisitionTime="114946" if is_new else "120000")

    np.testing.assert_allclose(voxels_of(tmp_path), expected_voxels(2) * 70_000 / 185e6, rtol=1e-4)


def test_uptake_values_stay_as_they_are(tmp_path):
    write_pet(tmp_path, {}, Units="GML", PatientWeight=None)

    np.testing.assert_array_equal(voxels_of(tmp_path), expected_voxels(2))


def add_philips_factor(made, factor):
    made.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "DS", factor)


def test_counts_of_a_philips_scanner_become_uptake_by_its_private_factor(tmp_path):
    write_pet(tmp_path, Units="CNTS", alter=lambda k, made: add_philips_factor(made, "0.25"))

    np.testing.assert_array_equal(voxels_of(tmp_path), expected_voxels(2) * 0.25)


def test_counts_of_a_philips_scanner_without_a_factor_are_refused(tmp_path):
    write_pet(tmp_path, Units="CNTS", alter=lambda k, made: add_philips_factor(made, "0"))

    with pytest.raises(PetUnitsError, match="its private factor to uptake values makes no sense"):
        voxels_of(tmp_path)


@pytest.mark.parametrize(
    ("tracer", "attributes", "fault"),
    [
        (TRACER, {"Units": "CNTS"}, "in units that are neither Bq/mL nor SUV"),
        (TRACER, {"Units": "GML", "SUVType": "LBM"}, "not by body weight"),
        (TRACER, {"PatientWeight": None}, "weight is missing"),
        (TRACER, {"PatientWeight": 0}, "weight is missing or makes no sense"),
        ({**TRACER, "RadionuclideTotalDose": 0}, {}, "the injected dose is missing"),
        ({**TRACER, "RadionuclideTotalDose": 370}, {}, "missing or not in Bq"),
        ({**TRACER, "RadionuclideHalfLife": 109.77}, {}, "begins 60 half-lives after"),
        ({**TRACER, "RadionuclideHalfLife": 0}, {}, "half-life of the tracer is missing"),
        (TRACER, {"DecayCorrection": "NONE"}, "not corrected for decay"),
        ({**TRACER, "RadiopharmaceuticalStartDateTime": "20210102100000"}, {}, "within the 30 days before"),
        ({**TRACER, "RadiopharmaceuticalStartDateTime": "nonsense"}, {}, "time of injection is missing"),
        (TRACER, {"AcquisitionTime": None, "SeriesTime": None}, "time of the scan is missing"),
    ],
)
def test_a_pet_that_cannot_be_told_in_uptake_is_refused(tmp_path, tracer, attributes, fault):
    write_pet(tmp_path, tracer, **attributes)

    with pytest.raises(PetUnitsError, match=fault) as refusal:
        voxels_of(tmp_path)
    assert "Export it in Bq/mL, decay-corrected" in refusal.value.remedy
