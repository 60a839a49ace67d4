"""The folder that an import fills: whole cases, then the list of them.

manifest.csv           what medseg reads
images/, labels/       NIfTI, named by case
cases/CASE.json, .npz  what the list and the page tell of a case, and its picture
import.html            the page; it shows images
import.json            whose import this is
"""

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg_core.config import Task
from medseg_core.errors import UnusableFolderError
from medseg_core.files import write_atomic
from medseg_core.import_errors import OccupiedImportError

MANIFEST, PAGE = "manifest.csv", "import.html"
ATTRIBUTES = ("modality", "vendor", "scanner", "field_strength_t", "sex", "age_group")
_OURS = re.compile(r"(case-[0-9a-f]{16})[._].*")
_FOLDERS = ("images", "labels", "cases")


class ImportedCase(BaseModel):
    """One case as it lies in the folder; paths are relative to it."""

    model_config = ConfigDict(strict=False, extra="forbid", frozen=True)

    case_id: str
    patient_id: str
    images: dict[str, str]  # by channel; without those that the case has not
    label: str
    attributes: dict[str, str]
    size: tuple[int, ...]  # voxels (i, j[, k])
    spacing_mm: tuple[float, ...] | None
    volumes_ml: dict[str, float]  # by label; pixels where no millimetres are known
    warnings: tuple[str, ...] = ()


class ImportFolder:
    """An import's folder, open: what a killed import left half done is cleared away."""

    def __init__(self, root: Path, site: str, task: Task) -> None:
        """Raises OccupiedImportError, UnusableFolderError."""
        self.root, self._site = root, site
        self._channels = tuple(channel.name for channel in task.channels)
        ours = {"site": site, "task": task.name, "channels": list(self._channels)}
        marker = root / "import.json"
        if marker.is_file():
            if json.loads(marker.read_bytes()) != ours:
                raise OccupiedImportError(root, "holds an import of another site or task")
        elif root.exists() and (not root.is_dir() or any(p.name != ".lock" for p in root.iterdir())):
            raise OccupiedImportError(root, "holds files that are no import")
        write_atomic(marker, f"{json.dumps(ours)}\n".encode())
        shutil.rmtree(self._part, ignore_errors=True)

    @property
    def page(self) -> Path:
        """Where the page lies."""
        return self.root / PAGE

    def picture(self, case_id: str) -> Path:
        """Where the picture of a case lies."""
        return self.root / "cases" / f"{case_id}.npz"

    @contextmanager
    def filling(self) -> Iterator[Path]:
        """A folder for the files of one case, gone afterwards: `keep` them inside.

        Raises UnusableFolderError where something cannot be written.
        """
        try:
            self._part.mkdir(parents=True)
            yield self._part
        except OSError as error:
            raise UnusableFolderError(self.root, error.strerror or type(error).__name__) from None
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    def keep(self, case: ImportedCase, part: Path) -> None:
        """Move the files of a case, named in it and its picture, from `part` to their places; the case counts last."""
        for name in (*case.images.values(), case.label, f"cases/{case.case_id}.npz"):
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (part / name).replace(target)
        write_atomic(
            self.root / "cases" / f"{case.case_id}.json", f"{case.model_dump_json(indent=1)}\n".encode()
        )

    def drop(self, case_id: str) -> None:
        """Remove what an earlier import kept of a case that is refused now."""
        (self.root / "cases" / f"{case_id}.json").unlink(missing_ok=True)

    def cases(self) -> tuple[ImportedCase, ...]:
        """Every whole case, by name."""
        found = []
        for path in sorted((self.root / "cases").glob("case-*.json")):
            try:
                found.append(ImportedCase.model_validate_json(path.read_bytes()))
            except ValidationError:  # of another version: imported again, it comes back
                path.unlink()
        return tuple(found)

    def finish(self) -> None:
        """Write the list of the cases that are whole, and remove files of those that are not.

        Raises UnusableFolderError.
        """
        shutil.rmtree(self._part, ignore_errors=True)
        cases = self.cases()
        names = {case.case_id for case in cases}
        for path in (path for folder in _FOLDERS for path in (self.root / folder).glob("*")):
            if (found := _OURS.fullmatch(path.name)) and found[1] not in names:
                path.unlink()
        write_atomic(self.root / MANIFEST, self._manifest(cases).encode())

    @property
    def _part(self) -> Path:
        return self.root / ".part"

    def _manifest(self, cases: tuple[ImportedCase, ...]) -> str:
        columns = ["image"] if len(self._channels) == 1 else [f"image_{name}" for name in self._channels]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["case_id", "patient_id", "site", *columns, "label", *ATTRIBUTES])
        for case in cases:
            images = [case.images.get(name, "") for name in self._channels]
            told = [case.attributes.get(name, "") for name in ATTRIBUTES]
            table.writerow([case.case_id, case.patient_id, self._site, *images, case.label, *told])
        return text.getvalue()
