"""Who is who: the site's own record of an import, in a folder that its owner alone can enter. It never leaves.

import/names.csv      case -> patient and series, of every import
import/left_out.csv   what the last import left out: file or series -> why, and what is drawn on it
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from medseg_core.files import write_atomic
from medseg_core.imaging.dicom.scan import Series

_NAMES = ("case_id", "patient_id", "study_uid", "series_uids", "patient_pseudonym")
_LEFT_OUT = ("what", "patient_id", "study_uid", "why", "drawn_on_it")


class PrivateRecord:
    """The two lists, in `folder`."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self._folder, self.left_out = folder, folder / "left_out.csv"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._names: dict[str, Sequence[str]] = {row[0]: row for row in _rows(folder / "names.csv")}
        self._unused: list[Sequence[str]] = []

    def name(self, case_id: str, *, patient: str, patient_id: str, study: str, series: Iterable[str]) -> None:
        """Note whom a case stands for."""
        self._names[case_id] = (case_id, patient_id, study, " ".join(series), patient)

    def leave_out_file(self, path: Path, why: str) -> None:
        """Note a file that is not used."""
        self._unused.append((str(path), "", "", why, ""))

    def leave_out(self, series: Series, why: str, drawn: Iterable[str] = ()) -> None:
        """Note a series that is not used; `drawn` are the names of segments on it, where they are the fault."""
        self._unused.append((series.series_uid, series.patient_id, series.study_uid, why, "; ".join(drawn)))

    def write(self) -> None:
        """Raises UnusableFolderError."""
        named = [self._names[case_id] for case_id in sorted(self._names)]
        write_atomic(self._folder / "names.csv", _csv(_NAMES, named))
        write_atomic(self.left_out, _csv(_LEFT_OUT, self._unused))


def _rows(path: Path) -> Sequence[Sequence[str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.reader(file) if len(row) == len(_NAMES)][1:]


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue().encode("utf-8", "replace")
