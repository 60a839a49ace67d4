"""A PACS by DICOMweb: QIDO-RS to find, WADO-RS to get, STOW-RS to put."""

import io
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.datadict import tag_for_keyword

from medseg_client.pacs import FoundSeries, Keys, Level, OnFile
from medseg_client.pacs_settings import DicomWeb
from medseg_core.pacs_errors import (
    PacsCertificateError,
    PacsError,
    PacsLoginError,
    PacsServiceError,
    PacsUnreachableError,
)

CONNECT_S, SILENCE_S = 10.0, 60.0  # an archive may fetch a series from tape before it sends the first byte
PAGE = 500  # results asked for at a time
AS_STORED = (("application/dicom", "*"),)  # the transfer syntax that the PACS keeps


class _Session(requests.Session):
    """Wildcards are sent as they are, which the standard of URLs allows: Orthanc's DICOMweb 1.7 decodes none."""

    def request(self, method: str | bytes, url: str | bytes, *words: Any, **named: Any) -> requests.Response:
        plain = str(url).replace("%2A", "*").replace("%3F", "?")
        return super().request(method, plain, *words, **named)


class DicomWebLink:
    """A DICOMweb server under one address. Raises PacsCertificateError where a file of site.toml is not there."""

    def __init__(self, settings: DicomWeb, root: Path, login: str | None) -> None:
        self.address = settings.url
        if not all(
            (root / path).is_file()
            for path in (settings.authority, settings.certificate, settings.key)
            if path
        ):
            raise PacsCertificateError(self.address, "authority, certificate or key cannot be read")
        session = _Session()
        session.trust_env = False  # no proxy, no .netrc: site.toml alone says whom we talk to
        session.verify = str(root / settings.authority) if settings.authority else True
        if settings.certificate is not None and settings.key is not None:
            session.cert = (str(root / settings.certificate), str(root / settings.key))
        if login is not None:
            user, _, password = login.partition(":")
            session.auth = (user, password)
        self._client = DICOMwebClient(self.address, session=session, timeout=(CONNECT_S, SILENCE_S))
        self._client.set_http_retry_params(retry=False)

    def find(self, level: Level, keys: Keys) -> Iterable[Keys]:
        """QIDO-RS, page after page until one brings nothing new."""
        path = [keys[name] for name in ("StudyInstanceUID", "SeriesInstanceUID") if keys.get(name)]
        searches: dict[Level, Callable[..., list[dict[str, Any]]]] = {
            "STUDY": self._client.search_for_studies,
            "SERIES": self._client.search_for_series,
            "IMAGE": self._client.search_for_instances,
        }
        search = searches[level]
        own = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[level]
        where = [] if level == "STUDY" else path
        filters = {name: value for name, value in keys.items() if value and value not in where}
        found: dict[str, Keys] = {}
        with self._told("QIDO-RS"):
            while True:
                page = search(
                    *where, limit=PAGE, offset=len(found), fields=list(keys), search_filters=filters
                )
                new = {str(answer[own]): answer for answer in (_texts(item, keys) for item in page)}
                if not new.keys() - found.keys():
                    return list(found.values())
                found |= new

    def get(self, series: FoundSeries, classes: Sequence[str], keep: Callable[[str, bytes], None]) -> None:
        """WADO-RS of a series, one object in memory at a time."""
        del classes
        with self._told("WADO-RS"):
            for dataset in self._objects(series):
                file = io.BytesIO()
                dcmwrite(file, dataset, enforce_file_format=True)
                keep(str(dataset.SOPInstanceUID), file.getvalue())

    def put(self, files: Sequence[Path], on_file: OnFile) -> str:
        """STOW-RS, a request for each file."""
        reason = ""
        for path in files:
            try:
                with self._told("STOW-RS"):
                    answer = self._client.store_instances([dcmread(path)])
                failed = answer.get("FailedSOPSequence") or []
                if failed:
                    reason = reason or f"failure reason 0x{int(failed[0].get('FailureReason', 0)):04X}"
            except PacsServiceError as error:
                reason = reason or error.fault
            on_file()
        return reason

    def _objects(self, series: FoundSeries) -> Iterator[Dataset]:
        return self._client.iter_series(series.study_uid, series.series_uid, media_types=AS_STORED)

    @contextmanager
    def _told(self, service: str) -> Iterator[None]:
        """What the libraries below say becomes a sentence of ours."""
        try:
            yield
        except PacsError:
            raise
        except requests.exceptions.SSLError as error:
            raise PacsCertificateError(self.address, _tls_reason(error)) from None
        except requests.exceptions.HTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise PacsLoginError(self.address, status) from None
            raise PacsServiceError(self.address, service, f"HTTP status {status}") from None
        except requests.exceptions.Timeout:
            raise PacsUnreachableError(self.address, "it is silent") from None
        except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError):
            raise PacsUnreachableError(
                self.address, "nothing answers there, or the connection broke"
            ) from None
        except requests.exceptions.RequestException:
            raise PacsServiceError(self.address, service, "its answer cannot be read") from None
        except (ValueError, KeyError, TypeError, AttributeError, EOFError):
            raise PacsServiceError(self.address, service, "its answer cannot be read") from None


def _texts(answer: dict[str, Any], keys: Keys) -> Keys:
    """The values of an answer in DICOM JSON as text, by the keywords asked for."""
    found = {}
    for keyword in keys:
        values = answer.get(f"{tag_for_keyword(keyword):08X}", {}).get("Value") or [""]
        found[keyword] = str(values[0] if values[0] is not None else "")
    return found


def _tls_reason(error: BaseException) -> str:
    """What the TLS library found wrong with a certificate, where that is it."""
    seen: BaseException | None = error
    while seen is not None:
        for part in (seen, *seen.args, getattr(seen, "reason", None)):
            while part is not None and not isinstance(part, ssl.SSLError):
                part = getattr(part, "reason", None) if isinstance(part, BaseException) else None
            if isinstance(part, ssl.SSLCertVerificationError):
                return str(part.verify_message)
        seen = seen.__cause__ or seen.__context__
    return "the other side does not speak TLS, or wants a certificate"
