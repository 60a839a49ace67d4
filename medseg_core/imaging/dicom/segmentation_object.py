"""A label map as a DICOM SEG object of type BINARY.

Every slice of the series has a frame in every segment, empty ones too: the object then has the extent of the series,
and whoever reads it gets the series' own grid.
"""

import warnings
from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom.sr.coding import CodedConcept
from jaxtyping import UInt8
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medseg_core.imaging.dicom.frames import is_multi_frame
from medseg_core.imaging.dicom.result_facts import MAKER, NOTICE, Maker, Meaning

SERIES_NUMBER = 9001  # behind those of a scanner


def segmentation_of(
    frames: UInt8[np.ndarray, "k j i"],
    sources: Sequence[Dataset],
    meanings: Sequence[Meaning],
    maker: Maker,
    *,
    remark: str,
) -> hd.seg.Segmentation:
    """The object, of `frames` in the order of the `sources`, whose values are 1.. in the order of `meanings`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what the hospital's own headers hold
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(n, m, maker) for n, m in enumerate(meanings, start=1)],
            series_instance_uid=generate_uid(prefix=None),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=maker.task,
            software_versions=maker.version,
            device_serial_number=maker.weights_sha256,
            omit_empty_frames=False,
            series_description=maker.described(remark),
            content_label="SEGMENTATION",
            content_description=NOTICE,
        )
    if "ImageOrientationPatient" not in sources[0] and not is_multi_frame(sources[0]):
        # a projection: DICOM wants its orientation in words, or blank
        segmentation.PatientOrientation = sources[0].get("PatientOrientation")
    return segmentation


def concept(code: tuple[str, str, str]) -> CodedConcept:
    """A code as highdicom takes it."""
    value, scheme, meaning = code
    return CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)


def _described(number: int, meaning: Meaning, maker: Maker) -> hd.seg.SegmentDescription:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=maker.task,
        family=codes.DCM.ArtificialIntelligence,
        version=maker.run,
        source="medseg",
        parameters={"medseg": maker.version, "weights_sha256": maker.weights_sha256},
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=meaning.name,
        segmented_property_category=concept(meaning.category),
        segmented_property_type=concept(meaning.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_id=meaning.name,
        tracking_uid=generate_uid(prefix=None),
    )
