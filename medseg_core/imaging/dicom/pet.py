"""Rescaled PET values become standardised uptake values by body weight, g/mL.

SUV = activity concentration (Bq/mL) * body weight (g) / dose at the time that the image is corrected to (Bq).
Source: QIBA, FDG-PET/CT profile, vendor-neutral pseudo-code for SUV. Refused is what its happy path assumes away: doses
in MBq, half-lives in minutes, clocks that do not fit each other.
"""

import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pydicom.dataset import Dataset

from medseg_core.dicom_errors import MixedSeriesError, PetUnitsError
from medseg_core.imaging.dicom.headers import item, number, read_header, text, words

_KEYWORDS = (
    "Units", "SUVType", "DecayCorrection", "CorrectedImage", "PatientWeight", "SeriesDate", "SeriesTime",
    "AcquisitionDate", "AcquisitionTime", "TimezoneOffsetFromUTC", "RadiopharmaceuticalInformationSequence",
)  # fmt: skip
_PHILIPS_GROUP = 0x7053
_PHILIPS_TAGS = (0x70530010, 0x70531000)  # who keeps the group, and the factor
_LONGEST_WAIT_S = 30 * 86400  # zirconium-89 is imaged within two weeks
_MOST_HALF_LIVES = 10  # a thousandth is left: nobody images that
_LEAST_DOSE_BQ = 1e6  # children get ten times as much; a dose in MBq is a thousandth of it


def uptake_factor(files: Sequence[Path], where: str) -> float:
    """What every rescaled value of the series is multiplied with to be an SUV. Raises DicomError leaves."""
    headers = [read_header(path, (*_KEYWORDS, *_PHILIPS_TAGS)) for path in files]
    first = headers[0]
    for keyword in ("Units", "DecayCorrection", "PatientWeight"):
        if len({text(header, keyword) for header in headers}) > 1:
            raise MixedSeriesError(where, keyword, ("one", "another"))
    match text(first, "Units").upper():
        case "GML":
            if text(first, "SUVType").upper() not in ("", "BW"):
                raise PetUnitsError(where, "its uptake values are not by body weight")
            return 1.0
        case "BQML":
            weight = number(first, "PatientWeight", where) or 0.0
            if not 0 < weight < 1000:
                raise PetUnitsError(where, "the patient's weight is missing or makes no sense")
            return weight * 1000 / _dose_bq(headers, where)
        case "CNTS" if factor := _philips_factor(first, where):
            return factor
    raise PetUnitsError(where, "its values are in units that are neither Bq/mL nor SUV")


def _philips_factor(header: Dataset, where: str) -> float | None:
    """What Philips scanners multiply counts with, which they keep in a private element; None where it is not told."""
    try:
        block = header.private_block(_PHILIPS_GROUP, "Philips PET Private Group")
        factor = float(block[0x00].value)
    except (KeyError, TypeError, ValueError):
        return None
    if not 0 < factor < math.inf:
        raise PetUnitsError(where, "its private factor to uptake values makes no sense")
    return factor


def _dose_bq(headers: Sequence[Dataset], where: str) -> float:
    """Injected activity at the time that the image is corrected to. Raises PetUnitsError."""
    first = headers[0]
    tracer = item(first, "RadiopharmaceuticalInformationSequence", where)
    dose = number(tracer, "RadionuclideTotalDose", where) or 0.0
    if dose < _LEAST_DOSE_BQ:
        raise PetUnitsError(where, "the injected dose is missing or not in Bq")
    corrected = text(first, "DecayCorrection").upper()
    if "DECY" not in words(first, "CorrectedImage") or corrected not in ("START", "ADMIN"):
        raise PetUnitsError(where, "it is not corrected for decay, or does not say to when")
    if corrected == "ADMIN":
        return dose
    half_life_s = number(tracer, "RadionuclideHalfLife", where) or 0.0
    elapsed_s = _elapsed_s(headers, tracer, where)
    if half_life_s <= 0:
        raise PetUnitsError(where, "the half-life of the tracer is missing")
    if elapsed_s > _MOST_HALF_LIVES * half_life_s:
        passed = elapsed_s / half_life_s
        raise PetUnitsError(where, f"the scan begins {passed:.3g} half-lives after the injection")
    return float(dose * 2 ** (-elapsed_s / half_life_s))


def _elapsed_s(headers: Sequence[Dataset], tracer: Dataset, where: str) -> float:
    """From the injection to the start of the scan.

    That is the time of the series, unless the series was made later than its first acquisition, as a new one is.
    """
    starts = [_moment(header, prefix) for prefix in ("Series", "Acquisition") for header in headers]
    start = min((start for start in starts if start is not None), default=None)
    if start is None:
        raise PetUnitsError(where, "the time of the scan is missing")
    zone = _zone(text(headers[0], "TimezoneOffsetFromUTC"))
    injected = _in_zone(text(tracer, "RadiopharmaceuticalStartDateTime"), zone)
    if injected is None:
        clock = text(tracer, "RadiopharmaceuticalStartTime")
        injected = _parsed(f"{start:%Y%m%d}", clock) if clock else None
        if injected is not None and injected > start:  # injected before midnight, scanned after
            injected -= timedelta(days=1)
    if injected is None:
        raise PetUnitsError(where, "the time of injection is missing")
    elapsed_s = (start - injected).total_seconds()
    if not 0 <= elapsed_s < _LONGEST_WAIT_S:
        raise PetUnitsError(where, "the injection is not within the 30 days before the scan")
    return elapsed_s


def _moment(header: Dataset, prefix: str) -> datetime | None:
    return _parsed(text(header, f"{prefix}Date"), text(header, f"{prefix}Time"))


def _in_zone(told: str, zone: timedelta | None) -> datetime | None:
    """DICOM's date with time in the zone of the other times; where one of the zones is not told, they are one."""
    moment, own = _parsed(told[:8], told[8:]), _zone(told[-5:])
    return moment if moment is None or own is None or zone is None else moment - own + zone


def _zone(told: str) -> timedelta | None:
    """An offset from UTC, such as +0130."""
    found = re.fullmatch(r"([+-])(\d{2})(\d{2})", told)
    offset = timedelta(hours=int(found[2]), minutes=int(found[3])) if found else None
    return -offset if offset is not None and told.startswith("-") else offset


def _parsed(date: str, clock: str) -> datetime | None:
    """A day, and a time from the hour alone to parts of a second, which are dropped; DICOM's and its forerunner's."""
    found = re.match(r"(\d{2}):?(\d{2})?:?(\d{2})?", clock)
    try:
        return datetime.strptime(date + "".join(found.groups("00")), "%Y%m%d%H%M%S") if found else None
    except ValueError:
        return None
