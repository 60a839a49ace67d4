"""All studies of the sources, one after the other: cases kept, the rest told, then the list and the page."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from medseg_client.importing.choice import choose_cases
from medseg_client.importing.page import Refusal, write_page
from medseg_client.importing.private_record import PrivateRecord
from medseg_client.importing.source import Study, studies_of
from medseg_client.importing.study import Importer
from medseg_core.data_errors import GridTooLargeError
from medseg_core.dicom_errors import DicomError
from medseg_core.errors import CaseError
from medseg_core.imaging.dicom.result_facts import MAKER
from medseg_core.imaging.dicom.scan import Scan, Series
from medseg_core.import_errors import NoLabelsError

_NO_IMAGES = "it is drawn on images that are not here"
_PREDICTED = "a model of medseg drew it: no truth to train on"


@dataclass
class Tally:
    """How an import went; nothing in it names anybody."""

    imported: int = 0
    n_series: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    n_lost: int = 0  # files not used that may be slices
    issuers: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set), repr=False)

    @property
    def n_shared_numbers(self) -> int:
        """Patients, by pseudonym, whose number several issuers gave: these may be several people."""
        return sum(len(of_patient - {""}) > 1 for of_patient in self.issuers.values())


def import_all(
    scans: Iterable[Scan], importer: Importer, record: PrivateRecord, on_study: Callable[[], None]
) -> Tally:
    """Import every study. List and page are written however it ends.

    Raises PacsError, StorageError leaves.
    """
    tally = Tally()
    with _written(importer, record, tally):
        for found in scans:
            tally.n_lost += len(found.lost)
            for left in found.left_out:
                tally.unused[left.reason] += 1
                record.leave_out_file(left.path, left.reason)
            studies = studies_of(found)
            _note_unread(found, {study.study_uid for study in studies}, record, tally)
            for study in studies:
                _import_study(study, importer, record, tally)
                on_study()
    return tally


@contextmanager
def _written(importer: Importer, record: PrivateRecord, tally: Tally) -> Iterator[None]:
    try:
        yield
    finally:
        importer.folder.finish()
        write_page(importer.folder, importer.site, refusals=tally.refusals, unused=tally.unused)
        record.write()


def _note_unread(found: Scan, known: set[str], record: PrivateRecord, tally: Tally) -> None:
    for drawing in (*found.segmentations, *found.structures):
        is_ours = drawing.manufacturer == MAKER
        if is_ours or drawing.study_uid not in known:
            reason = _PREDICTED if is_ours else _NO_IMAGES
            tally.unused[reason] += 1
            record.leave_out(drawing, reason)


def _import_study(study: Study, importer: Importer, record: PrivateRecord, tally: Tally) -> None:
    tally.n_series += len(study.images)
    whole = importer.names.case(one.series_uid for one in study.images)
    try:
        chosen = choose_cases(study, importer.task, whole)
    except CaseError as error:
        _refuse(whole, study.images, error, importer, record, tally)
        return
    for unused in chosen.unused:
        tally.unused[unused.reason] += 1
        record.leave_out(unused.series, unused.reason)
    for series in chosen.cases:
        case_id, used = importer.case_id(series), tuple(series.values())
        try:
            case = importer.import_case(study, series)
        except (CaseError, DicomError, GridTooLargeError) as error:
            _refuse(case_id, used, error, importer, record, tally)
            continue
        tally.imported += 1
        tally.issuers[case.patient_id].add(study.patient_issuer)
        uids = [one.series_uid for one in used]
        record.name(
            case_id, patient=case.patient_id, patient_id=study.patient_id, study=study.study_uid, series=uids
        )


def _refuse(
    case_id: str,
    series: Iterable[Series],
    error: CaseError | DicomError | GridTooLargeError,
    importer: Importer,
    record: PrivateRecord,
    tally: Tally,
) -> None:
    fault, remedy = getattr(error, "fault", str(error)), getattr(error, "remedy", "")
    importer.folder.drop(case_id)
    refusal = Refusal(case_id, f"{fault}.", f"{remedy.rstrip('.')}.")
    tally.refusals.append(refusal)
    drawn = error.drawn if isinstance(error, NoLabelsError) else ()
    for one in series:
        record.leave_out(one, f"{case_id}: {refusal.fault} {refusal.remedy}", drawn)
