"""The hospital's PACS: find series, fetch them into a folder, store files and see that they are there.

In: a query, `[pacs]` of site.toml. Out: files of DICOM in a folder of the caller's. Two links carry it: DICOMweb and
DIMSE. What is found and fetched names patients: it is for this site's own processes.
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from medseg_client.login_file import read_login
from medseg_client.site_folder import SiteFolder
from medseg_core.files import whole_folder
from medseg_core.pacs_errors import (
    NoPacsError,
    NothingFoundError,
    PacsQueryError,
    PacsServiceError,
    PacsStoreError,
    PacsTransferError,
    PacsUnreachableError,
)

SCHEME = "pacs:"
TALKATIVE = ("dicomweb_client", "pydicom", "pynetdicom", "retrying", "urllib3")
NOBODYS_STUDY = "2.25.0"
Level = Literal["STUDY", "SERIES", "IMAGE"]
Keys = Mapping[str, str]  # of DICOM, by keyword
OnFile = Callable[[], None]

_UID = re.compile(r"[0-9.]{1,64}")
_DATES = re.compile(r"\d{8}|\d{8}-\d{8}|\d{8}-|-\d{8}")
_STUDY_KEYS = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "accession": "AccessionNumber",
    "date": "StudyDate",
}


@dataclass(frozen=True)
class SeriesQuery:
    """What to look for; an empty field matches everything, `*` and `?` as DICOM has them.

    `modality` and `description` match in upper and lower case.
    """

    patient: str = ""
    study: str = ""
    accession: str = ""
    date: str = ""  # YYYYMMDD or YYYYMMDD-YYYYMMDD
    series: str = ""
    modality: str = ""
    description: str = ""

    @staticmethod
    def parse(text: str) -> "SeriesQuery":
        """The query in `pacs:KEY=VALUE,KEY=VALUE`. Raises PacsQueryError."""
        known = tuple(field.name for field in fields(SeriesQuery))
        asked: dict[str, str] = {}
        for part in text.removeprefix(SCHEME).split(","):
            key, equals, value = (word.strip() for word in part.partition("="))
            if key not in known or not equals or key in asked:
                raise PacsQueryError(f"has {part.strip()[:40]!r}", known)
            if not value or "\\" in value or not value.isprintable():
                raise PacsQueryError(f"has no usable value of {key}", known)
            if key == "date" and not _DATES.fullmatch(value):
                raise PacsQueryError("has a date that is none", known)
            asked[key] = value
        query = SeriesQuery(**asked)
        if not any(getattr(query, key) for key in _STUDY_KEYS):
            raise PacsQueryError(
                f"would ask for every study: it names none of {', '.join(_STUDY_KEYS)}", known
            )
        return query

    def takes(self, series: "FoundSeries") -> bool:
        """Whether a series of a study that matches is meant: not every PACS matches these keys itself."""
        wanted = ((self.modality, series.modality), (self.description, series.description))
        is_named = self.series in ("", series.series_uid)
        return is_named and all(not asked or fnmatchcase(has.upper(), asked.upper()) for asked, has in wanted)


@dataclass(frozen=True)
class FoundSeries:
    """A series that the PACS has."""

    study_uid: str
    series_uid: str
    modality: str
    description: str
    patient_id: str


@runtime_checkable
class PacsLink(Protocol):
    """One way to talk to a PACS. Its methods raise PacsError leaves."""

    address: str

    def find(self, level: Level, keys: Keys) -> Iterable[Keys]:
        """What matches: the same keywords with their values. An empty value matches everything."""

    def get(self, series: FoundSeries, classes: Sequence[str], keep: Callable[[str, bytes], None]) -> None:
        """Calls `keep` with the SOP instance UID and the file of each object; may end early without a word.

        `classes` are the SOP classes of the objects as far as the PACS told them.
        """

    def put(self, files: Sequence[Path], on_file: OnFile) -> str:
        """Sends files; returns why the PACS took one not, "" where it refused none."""


def pacs_of(site: SiteFolder) -> "Pacs":
    """The PACS that site.toml names. Raises NoPacsError, LoginFileError, ExperimentFileError, NoSiteFolderError."""
    settings = site.settings.pacs
    if settings is None:
        raise NoPacsError
    if settings.dicomweb is not None:
        from medseg_client.pacs_web import DicomWebLink  # pydicom and requests: only when needed

        return Pacs(DicomWebLink(settings.dicomweb, site.root, read_login(site.pacs_login)))
    from medseg_client.pacs_dimse import DimseLink

    assert settings.dimse is not None, "site.toml was checked"
    return Pacs(DimseLink(settings.dimse, site.root))


class Pacs:
    """Series found, fetched and stored, each checked against what the PACS lists."""

    def __init__(self, link: PacsLink) -> None:
        self._link = link
        for name in TALKATIVE:  # they log addresses and values of headers, with the identifiers in them
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", module=r"pydicom\.")

    @property
    def address(self) -> str:
        """Where it is, for messages."""
        return self._link.address

    def require_answer(self) -> None:
        """The PACS answers a query; whatever it has. Raises PacsError leaves."""
        list(self._link.find("STUDY", {"StudyInstanceUID": NOBODYS_STUDY}))

    def find_series(self, query: SeriesQuery) -> tuple[FoundSeries, ...]:
        """The series that a query means, studies one after the other. Raises PacsError leaves."""
        found = tuple(series for series in self._series_of_studies(query) if query.takes(series))
        if not found:
            raise NothingFoundError(self.address)
        return found

    def series_of_study(self, study_uid: str, patient_id: str) -> tuple[FoundSeries, ...]:
        """Every series of one study. Raises PacsError leaves."""
        asked = {
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": "",
            "Modality": "",
            "SeriesDescription": "",
        }
        found = []
        for keys in self._link.find("SERIES", asked):
            uid = self._uid(keys["SeriesInstanceUID"])
            found.append(FoundSeries(study_uid, uid, keys["Modality"], keys["SeriesDescription"], patient_id))
        return tuple(sorted(found, key=lambda series: series.series_uid))

    def fetch_series(
        self, series: FoundSeries, into: Path, on_file: OnFile = lambda: None
    ) -> tuple[Path, ...]:
        """Every file of a series in the new folder `into`, or none of them.

        Raises PacsTransferError where one that the PACS lists does not come, other PacsError leaves,
        UnusableFolderError.
        """
        listed = self._instances(series.study_uid, series.series_uid)
        names: dict[str, str] = {}
        with whole_folder(into) as folder:

            def keep(uid: str, data: bytes) -> None:
                name = names.setdefault(uid, f"{len(names):06}.dcm")
                (folder / name).write_bytes(data)
                on_file()

            with suppress(PacsUnreachableError):  # it answered a moment ago
                self._link.get(series, sorted({c for c in listed.values() if c}), keep)
            if not listed or missing_in(names, listed):
                raise PacsTransferError(self.address, len(names), len(listed))
        return tuple(into / name for name in names.values())

    def store(self, files: Sequence[Path], on_file: OnFile = lambda: None) -> None:
        """Send files of DICOM; afterwards the PACS lists every one of them.

        Raises PacsStoreError where it does not, other PacsError leaves, OSError and pydicom's errors for what is no
        file of DICOM.
        """
        reason = self._link.put(files, on_file)
        missing = 0
        for (study, series), uids in _identities(files).items():
            missing += len(missing_in(self._instances(study, series), uids))
        if missing or reason:
            told = reason or "it said that it took them, and does not list them"
            raise PacsStoreError(self.address, max(missing, 1), len(files), told)

    def _series_of_studies(self, query: SeriesQuery) -> Iterator[FoundSeries]:
        asked = {keyword: getattr(query, key) for key, keyword in _STUDY_KEYS.items()}
        studies = {
            self._uid(keys["StudyInstanceUID"]): keys["PatientID"] for keys in self._link.find("STUDY", asked)
        }
        for uid, patient_id in sorted(studies.items()):
            yield from self.series_of_study(uid, patient_id)

    def _instances(self, study_uid: str, series_uid: str) -> dict[str, str]:
        """SOP class by SOP instance of what the PACS lists of a series."""
        keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        found = self._link.find("IMAGE", keys | {"SOPInstanceUID": "", "SOPClassUID": ""})
        return {self._uid(keys["SOPInstanceUID"]): keys["SOPClassUID"] for keys in found}

    def _uid(self, text: str) -> str:
        if not _UID.fullmatch(text):
            raise PacsServiceError(self.address, "the query", "it answers with an identifier that is none")
        return text


def missing_in(has: Iterable[str], wanted: Iterable[str]) -> set[str]:
    """What is wanted and not there."""
    return set(wanted) - set(has)


def _identities(files: Sequence[Path]) -> dict[tuple[str, str], set[str]]:
    """SOP instances by study and series."""
    from pydicom import dcmread

    found: dict[tuple[str, str], set[str]] = {}
    for path in files:
        header = dcmread(
            path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"]
        )
        series = (str(header.StudyInstanceUID), str(header.SeriesInstanceUID))
        found.setdefault(series, set()).add(str(header.file_meta.MediaStorageSOPInstanceUID))
    return found
