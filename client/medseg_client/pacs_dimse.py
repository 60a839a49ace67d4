"""A PACS by DIMSE: C-FIND, C-GET and C-STORE, each on an association of its own."""

import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom import uid as uids
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, InterventionEvent
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from medseg_client.pacs import FoundSeries, Keys, Level, OnFile
from medseg_client.pacs_settings import Dimse
from medseg_core.pacs_errors import (
    PacsCertificateError,
    PacsServiceError,
    PacsTitleError,
    PacsUnreachableError,
)

CONNECT_S, SILENCE_S = 10.0, 60.0  # as by DICOMweb
ATTEMPTS = (
    5  # pynetdicom 3.0 misses the reason of a rejection where the PACS hangs up at once: about one in four
)
SUCCESS, PENDING, STORED_WITH_WARNING = 0x0000, (0xFF00, 0xFF01), (0xB000, 0xB006, 0xB007)
OUT_OF_RESOURCES = 0xA700
OUR_TITLE_UNKNOWN, THEIR_TITLE_WRONG = 3, 7  # diagnostics of a rejection, PS3.8 table 9-21
SYNTAXES = (  # each in a context of its own, so that files come as they are kept; without pixels all are the first
    uids.ExplicitVRLittleEndian,
    uids.ImplicitVRLittleEndian,
    uids.JPEGLosslessSV1,
    uids.JPEGLSLossless,
    uids.JPEG2000Lossless,
    uids.JPEG2000,
    uids.JPEGBaseline8Bit,
    uids.RLELossless,
)
USUAL_CLASSES = (  # where the PACS does not say; 128 contexts are the most, one is of the C-GET itself
    uids.CTImageStorage,
    uids.EnhancedCTImageStorage,
    uids.LegacyConvertedEnhancedCTImageStorage,
    uids.MRImageStorage,
    uids.EnhancedMRImageStorage,
    uids.LegacyConvertedEnhancedMRImageStorage,
    uids.PositronEmissionTomographyImageStorage,
    uids.EnhancedPETImageStorage,
    uids.ComputedRadiographyImageStorage,
    uids.DigitalXRayImageStorageForPresentation,
    uids.SecondaryCaptureImageStorage,
    uids.UltrasoundImageStorage,
    uids.SegmentationStorage,
    uids.UID("1.2.840.10008.5.1.4.1.1.66.7"),  # label map segmentation
    uids.RTStructureSetStorage,
)


class DimseLink:
    """A PACS at a host, a port and an AE title."""

    def __init__(self, settings: Dimse, root: Path) -> None:
        self.address = f"{settings.host}:{settings.port}"
        self._settings, self._root = settings, root

    def find(self, level: Level, keys: Keys) -> Iterable[Keys]:
        """C-FIND of the study root."""
        asked, found = Dataset(), list[Keys]()
        asked.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(asked, keyword, value)
        with self._association([build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
            answers = association.send_c_find(asked, StudyRootQueryRetrieveInformationModelFind)
            for status, answer in answers:
                if self._code(status) in PENDING and answer is not None:
                    found.append({name: str(answer.get(name, "") or "") for name in keys})
                elif self._code(status) != SUCCESS:
                    raise PacsServiceError(self.address, "C-FIND", f"status 0x{self._code(status):04X}")
        return found

    def get(self, series: FoundSeries, classes: Sequence[str], keep: Callable[[str, bytes], None]) -> None:
        """C-GET of a series: the objects come on the association that asks for them."""
        failures: list[Exception] = []

        def take(event: Event) -> int:
            try:
                keep(str(getattr(event.request, "AffectedSOPInstanceUID", "")), event.encoded_dataset())
            except Exception as error:  # the association's thread ends here; the caller raises it
                failures.append(error)
                return OUT_OF_RESOURCES
            return SUCCESS

        asked = Dataset()
        asked.QueryRetrieveLevel = "SERIES"
        asked.StudyInstanceUID, asked.SeriesInstanceUID = series.study_uid, series.series_uid
        wanted = list(classes or USUAL_CLASSES)[: len(USUAL_CLASSES)]
        contexts = [build_context(name, syntax) for name in wanted for syntax in SYNTAXES]
        contexts.append(build_context(StudyRootQueryRetrieveInformationModelGet))
        roles = [build_role(name, scp_role=True) for name in wanted]
        handlers = [(evt.EVT_C_STORE, take)]
        with self._association(contexts, roles, handlers) as association:
            for status, _ in association.send_c_get(asked, StudyRootQueryRetrieveInformationModelGet):
                code = self._code(status)
                if failures:
                    raise failures[0]
                if code not in (SUCCESS, *PENDING) and code not in STORED_WITH_WARNING:
                    raise PacsServiceError(self.address, "C-GET", f"status 0x{code:04X}")

    def put(self, files: Sequence[Path], on_file: OnFile) -> str:
        """C-STORE of each file as it is on disk."""
        needed: dict[str, set[str]] = defaultdict(set)
        for path in files:
            meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
            needed[meta.MediaStorageSOPClassUID].add(meta.TransferSyntaxUID)
        contexts = [build_context(name, syntax) for name, kinds in needed.items() for syntax in sorted(kinds)]
        reason = ""
        with self._association(contexts) as association:
            for path in files:
                try:
                    code = self._code(association.send_c_store(path))
                except ValueError:  # no context of the file's class and transfer syntax was accepted
                    reason = reason or "it does not accept this kind of object"
                else:
                    if code != SUCCESS and code not in STORED_WITH_WARNING:
                        reason = reason or f"status 0x{code:04X}"
                on_file()
        return reason

    def _code(self, status: Dataset) -> int:
        """The status of an answer. Raises PacsUnreachableError where the answer did not come."""
        if "Status" not in status:
            raise PacsUnreachableError(self.address, "it is silent, or the connection broke")
        return int(status.Status)

    @contextmanager
    def _association(
        self,
        contexts: Sequence[PresentationContext],
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[tuple[InterventionEvent, Callable[[Event], int]]] = (),
    ) -> Iterator[Association]:
        settings, entity = self._settings, AE(ae_title=self._settings.own_ae_title)
        entity.acse_timeout, entity.connection_timeout = CONNECT_S, CONNECT_S
        entity.dimse_timeout = entity.network_timeout = SILENCE_S
        context = self._tls()
        for _ in range(ATTEMPTS):
            association = entity.associate(
                settings.host,
                settings.port,
                list(contexts),
                ae_title=settings.ae_title,
                ext_neg=list(roles),
                evt_handlers=list(handlers),
                tls_args=(context, settings.host) if context else None,
            )
            if association.acceptor.primitive is not None or not _is_open(settings):
                break
        if not association.is_established:
            self._raise_why_not(association, context)
        try:
            yield association
        except BaseException:
            association.abort()  # a release would wait for what is still coming
            raise
        if association.is_established:
            association.release()

    def _tls(self) -> ssl.SSLContext | None:
        """Raises PacsCertificateError where a file of site.toml does not serve."""
        ours = self._settings
        if not ours.tls:
            return None
        try:
            context = ssl.create_default_context(
                cafile=self._root / ours.authority if ours.authority else None
            )
            if ours.certificate is not None and ours.key is not None:
                context.load_cert_chain(self._root / ours.certificate, self._root / ours.key)
        except (OSError, ssl.SSLError):
            raise PacsCertificateError(self.address, "authority, certificate or key cannot be read") from None
        return context

    def _raise_why_not(self, association: Association, context: ssl.SSLContext | None) -> None:
        """Raises the PacsError leaf that says why no association came about."""
        ours = self._settings
        if association.is_rejected:
            diagnostic = getattr(association.acceptor.primitive, "diagnostic", None)
            if diagnostic == OUR_TITLE_UNKNOWN:
                raise PacsTitleError(self.address, ours.own_ae_title, is_ours=True)
            if diagnostic == THEIR_TITLE_WRONG:
                raise PacsTitleError(self.address, ours.ae_title, is_ours=False)
            raise PacsServiceError(self.address, "the association", f"rejected, diagnostic {diagnostic}")
        if association.rejected_contexts and not association.accepted_contexts:
            raise PacsServiceError(
                self.address, "the association", "none of the services asked for is allowed"
            )
        if not _is_open(ours):
            raise PacsUnreachableError(self.address, "nothing answers there")
        if context is not None:
            self._shake_hands(context)
        raise PacsUnreachableError(
            self.address, "it hangs up: a wrong AE title, no PACS, or one that wants TLS"
        )

    def _shake_hands(self, context: ssl.SSLContext) -> None:
        """Raises PacsCertificateError where TLS alone fails."""
        ours = self._settings
        try:
            with socket.create_connection((ours.host, ours.port), timeout=CONNECT_S) as plain:
                context.wrap_socket(plain, server_hostname=ours.host).close()
        except ssl.SSLCertVerificationError as error:
            raise PacsCertificateError(self.address, error.verify_message) from None
        except OSError:
            raise PacsCertificateError(self.address, "the other side does not speak TLS") from None


def _is_open(settings: Dimse) -> bool:
    """Whether something takes connections there."""
    try:
        socket.create_connection((settings.host, settings.port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True
