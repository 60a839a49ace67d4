"""Measurements as a DICOM structured report: template TID 1500, one group a segment."""

import warnings
from collections.abc import Mapping, Sequence

import highdicom as hd
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medseg_core.imaging.dicom.result_facts import MAKER, NOTICE, OWN_SCHEME, Code, Maker, Meaning
from medseg_core.imaging.dicom.segmentation_object import SERIES_NUMBER, concept
from medseg_core.imaging.measurements import Measurements

# value, name, unit
VOLUME: tuple[Code, Code] = (("118565006", "SCT", "Volume"), ("mL", "UCUM", "milliliter"))
DIAMETER: tuple[Code, Code] = (("L0JK", "IBSI", "Maximum 3D diameter"), ("mm", "UCUM", "millimeter"))
SLICE_DIAMETER: tuple[Code, Code] = (("103339001", "SCT", "Long axis"), ("mm", "UCUM", "millimeter"))
UNCERTAINTY: Code = ("uncertainty", OWN_SCHEME, "Uncertainty of the prediction")
IMAGING: Code = ("363679005", "SCT", "Imaging procedure")


def report_of(
    segmentation: hd.seg.Segmentation,
    sources: Sequence[Dataset],
    meanings: Sequence[Meaning],
    measurements: Mapping[str, Measurements],
    maker: Maker,
    *,
    remark: str,
) -> sr.Comprehensive3DSR:
    """The report on a segmentation of the `sources`; `remark` is told of each segment, too."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(prefix=None),
        name=NOTICE,
        manufacturer_name=MAKER,
        model_name=maker.task,
        serial_number=maker.weights_sha256,
    )
    observer = sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what the hospital's own headers hold
        content = sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer_device_context=observer),
            procedure_reported=concept(IMAGING),
            imaging_measurements=[
                _group(segmentation, number, meaning, measurements[meaning.name], maker, remark)
                for number, meaning in enumerate(meanings, start=1)
            ],
            title=codes.DCM.ImagingMeasurementReport,
        )
        return sr.Comprehensive3DSR(
            evidence=[segmentation, *sources],
            content=content[0],
            series_instance_uid=generate_uid(prefix=None),
            series_number=SERIES_NUMBER + 1,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer=MAKER,
            is_complete=True,
            series_description=maker.described(remark),
        )


def _group(
    segmentation: hd.seg.Segmentation,
    number: int,
    meaning: Meaning,
    found: Measurements,
    maker: Maker,
    remark: str,
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    told = (
        (VOLUME, found.volume_ml),
        (DIAMETER, found.longest_diameter_mm),
        (SLICE_DIAMETER, found.longest_slice_diameter_mm),
    )
    tracking_uid = segmentation.SegmentSequence[number - 1].TrackingUID
    source_series_uid = segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=tracking_uid, identifier=meaning.name),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=number,
            source_series=sr.SourceSeriesForSegmentation(source_series_uid),
        ),
        finding_category=concept(meaning.category),
        finding_type=concept(meaning.type),
        algorithm_id=sr.AlgorithmIdentification(
            name=maker.task, version=maker.run, parameters=[f"weights_sha256={maker.weights_sha256}"]
        ),
        measurements=[
            sr.Measurement(name=concept(name), value=value, unit=concept(unit))
            for (name, unit), value in told
            if value is not None
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                name=concept(UNCERTAINTY), value=concept((remark[:16], OWN_SCHEME, remark))
            )
        ]
        if remark
        else None,
    )
