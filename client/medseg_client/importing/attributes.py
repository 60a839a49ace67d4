"""What is told of a case beside its images, for reports of fairness: words from our lists, no text of a header."""

from medseg_client.importing.pseudonyms import Pseudonyms

VENDORS = {  # by what their scanners write into the header
    "GE": ("GE ", "GENERAL ELECTRIC"),
    "Siemens": ("SIEMENS",),
    "Philips": ("PHILIPS", "ADAC", "MARCONI", "PICKER"),
    "Canon": ("CANON", "TOSHIBA"),
    "Fujifilm": ("FUJI", "HITACHI"),
    "United Imaging": ("UNITED IMAGING", "UIH"),
    "Agfa": ("AGFA",),
    "Carestream": ("CARESTREAM", "KODAK"),
    "Samsung": ("SAMSUNG", "NEUROLOGICA"),
    "CPS": ("CPS",),
}
MODALITIES = {
    "CT": "CT",
    "MR": "MR",
    "PT": "PET",
    "CR": "XR",
    "DX": "XR",
    "MG": "XR",
}  # DICOM's -> the task's
FIELD_STRENGTHS_T = (0.2, 0.35, 0.5, 1.0, 1.5, 3.0, 7.0)  # of magnets in hospitals; the nearest is told
AGES = (0, 18, 40, 50, 60, 70, 80)  # least age of each group: few patients are alone in theirs
OLDEST = 120


def modality(text: str) -> str:
    """The task's word for a modality, "other" for the rest."""
    return MODALITIES.get(text, "other")


def vendor(manufacturer: str) -> str:
    """One of our names for a manufacturer, "other", or "" where none is told."""
    text = f"{manufacturer.strip().upper()} "
    known = (name for name, starts in VENDORS.items() if text.startswith(starts))
    return next(known, "other" if text.strip() else "")


def scanner(manufacturer: str, model: str, names: Pseudonyms) -> str:
    """The vendor, and by the site's key a sign of the model that tells scanners of this site apart."""
    made_by = vendor(manufacturer)
    return f"{made_by} {names.scanner(manufacturer, model)}" if made_by and model.strip() else made_by


def field_strength(tesla: float | None) -> str:
    """The nearest usual field strength; "" where none is told or none is near."""
    if tesla is None or not 0.1 <= tesla <= 8:
        return ""
    return f"{min(FIELD_STRENGTHS_T, key=lambda usual: abs(usual - tesla)):g}"


def sex(text: str) -> str:
    """F, M, O or ""."""
    return text if text in ("F", "M", "O") else ""


def age_group(years: float | None) -> str:
    """Such as 40-49; "" where no age is told."""
    if years is None or not 0 <= years <= OLDEST:
        return ""
    place = max(n for n, least in enumerate(AGES) if years >= least)
    return f"{AGES[place]}-{AGES[place + 1] - 1}" if place + 1 < len(AGES) else f"{AGES[place]}+"
