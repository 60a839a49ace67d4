"""Where DICOM comes from: folders, which are scanned whole, or the PACS, of which one study at a time is fetched."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from medseg_client.bars import Watch
from medseg_client.pacs import SCHEME, FoundSeries, Pacs, SeriesQuery
from medseg_core.imaging.dicom.result_facts import MAKER
from medseg_core.imaging.dicom.scan import Scan, Series, scan
from medseg_core.import_errors import NoSourceError

LABELS = ("SEG", "RTSTRUCT")  # modalities of what is drawn on images


@dataclass(frozen=True)
class Study:
    """The series of one study of one patient."""

    study_uid: str
    patient_id: str
    images: tuple[Series, ...]
    segmentations: tuple[Series, ...]
    structures: tuple[Series, ...]

    @property
    def patient_issuer(self) -> str:
        """Whose number the patient ID is; "" where no image says so."""
        return next((one.patient_issuer for one in self.images if one.patient_issuer), "")


def studies_of(found: Scan) -> tuple[Study, ...]:
    """The studies with images in a scan, in the order of their UIDs; what a model of medseg drew is in none."""
    drawn = [one for one in found.segmentations if one.manufacturer != MAKER]
    images, segmentations, structures = map(_by_study, (found.series, drawn, found.structures))
    return tuple(
        Study(
            uid,
            patient,
            images[uid, patient],
            *(k.get((uid, patient), ()) for k in (segmentations, structures)),
        )
        for uid, patient in sorted(images)
    )


def _by_study(series: Sequence[Series]) -> dict[tuple[str, str], tuple[Series, ...]]:
    def key(one: Series) -> tuple[str, str]:
        return one.study_uid, one.patient_id

    return {
        study: tuple(group)
        for study, group in groupby(sorted(series, key=lambda s: (*key(s), s.series_uid)), key)
    }


@dataclass(frozen=True)
class Sources:
    """Folders and queries of one import."""

    folders: tuple[Path, ...]
    queries: tuple[SeriesQuery, ...]

    @staticmethod
    def parse(texts: Sequence[str]) -> "Sources":
        """What the texts name. Raises NoSourceError, PacsQueryError."""
        for number, text in enumerate(texts, start=1):
            if not text.startswith(SCHEME) and not Path(text).is_dir():
                raise NoSourceError(number)
        folders = tuple(Path(text) for text in texts if not text.startswith(SCHEME))
        return Sources(folders, tuple(SeriesQuery.parse(text) for text in texts if text.startswith(SCHEME)))


def scans(sources: Sources, pacs: Pacs | None, work: Path, watch: Watch) -> Iterator[Scan]:
    """What is in folders and answers queries; the files of a scan may be gone when the next is asked for.

    `pacs` is for queries; `work` is a folder for what comes from it, inside one that its owner alone can enter.
    Raises PacsError and DicomError leaves.
    """
    if sources.folders:
        first, *others = sources.folders
        files = [path for folder in sources.folders for path in sorted(folder.rglob("*")) if path.is_file()]
        found = scan(files if others else first, progress=watch.headers)
        watch.expected(len(studies_of(found)))
        yield found
    for query in sources.queries:
        assert pacs is not None, "whoever has queries has a PACS"
        yield from _fetched(pacs, query, work, watch)


def _fetched(pacs: Pacs, query: SeriesQuery, work: Path, watch: Watch) -> Iterator[Scan]:
    """A study after the other, with all that is drawn on its images."""

    def study(series: FoundSeries) -> str:
        return series.study_uid

    wanted = [list(group) for _, group in groupby(pacs.find_series(query), study)]
    watch.expected(len(wanted))
    for asked in wanted:
        drawn = pacs.series_of_study(asked[0].study_uid, asked[0].patient_id)
        series = {one.series_uid: one for one in (*asked, *drawn) if one in asked or one.modality in LABELS}
        shutil.rmtree(work, ignore_errors=True)
        try:
            for number, one in enumerate(series.values()):
                pacs.fetch_series(one, work / f"{number:03}", watch.fetched)
            yield scan(work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
