"""A folder or a manifest.csv becomes a Cohort.

manifest.csv has one row a case: `case_id, patient_id, site, image` (or one `image_<channel>` a channel) and
`label`; further columns are kept as attributes. Paths are relative to the manifest. `patient_id_scope` = `site`
says that each site numbers its own patients. A manifest is believed before any recognised layout.
"""

import csv
import difflib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg_core.cohort.cases import Cohort, raise_faults, require_consistent
from medseg_core.cohort.layouts import read_layout
from medseg_core.config import Task
from medseg_core.data_errors import (
    BlankCellError,
    EmptyManifestError,
    ManifestColumnError,
    ManifestRowError,
    UnreadableManifestError,
)
from medseg_core.errors import ManifestError
from medseg_core.types import Case

__all__ = ["Cohort", "read_cohort"]

_FILE_NAME = "manifest.csv"
_REQUIRED = ("case_id", "patient_id", "label")
_OPTIONAL = ("site", "patient_id_scope")
_SAVE_AS_UTF8 = "Save it as CSV (UTF-8)."


@dataclass(frozen=True)
class _Columns:
    """Which columns hold images, one a channel or one for all, and what the channels are called.

    Those of `optional` may be blank, or absent as a whole.
    """

    images: tuple[str, ...]
    channels: tuple[str, ...]
    optional: frozenset[str] = frozenset()


def read_cohort(data: Path, task: Task | None) -> Cohort:
    """The cases in a folder, or of one manifest file. No image is opened.

    Raises ManifestError leaves; SeveralManifestFaultsError where there is more than one fault.
    """
    try:
        return _read(data, task)
    except OSError as error:
        remedy = "Give the account that runs this program the right to read it."
        raise UnreadableManifestError(str(data), f"it cannot be opened ({error.strerror})", remedy) from None


def _read(data: Path, task: Task | None) -> Cohort:
    if data.is_dir():
        path = data / _FILE_NAME
        return _read_manifest(path, task) if path.is_file() else read_layout(data, task)
    if not data.exists():
        raise UnreadableManifestError(str(data), "there is no such folder or file", "Correct the path.")
    if data.suffix.lower() != ".csv":
        remedy = "Give the folder of the data, or its manifest.csv."
        raise UnreadableManifestError(str(data), "it is neither a folder nor a .csv file", remedy)
    return _read_manifest(data, task)


def _read_manifest(path: Path, task: Task | None) -> Cohort:
    source = str(path)
    header, rows = _read_rows(path)
    columns = _columns(header, task, source)
    faults: list[ManifestError] = []
    cases: list[Case] = []
    for line, row in rows:
        found = list(_row_faults(line, row, (header, columns), source))
        faults += found
        if not found:
            cases.append(_case(dict(zip(header, row, strict=False)), columns, path.parent))
    raise_faults(source, faults)
    require_consistent(cases, source)
    return Cohort(tuple(cases), path.parent, "manifest", columns.channels)


def _read_rows(path: Path) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """Header and numbered rows; cells stripped, blank lines left out; commas, semicolons or tabs."""
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableManifestError(source, "its text is not UTF-8", _SAVE_AS_UTF8) from None
    if "\0" in text:
        raise UnreadableManifestError(source, "it is not a text file", _SAVE_AS_UTF8)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error:
        raise UnreadableManifestError(source, f"line {reader.line_num} is not CSV", _SAVE_AS_UTF8) from None
    filled = [(number, row) for number, row in lines if any(row)]
    if not filled:
        raise EmptyManifestError(source)
    return tuple(filled[0][1]), filled[1:]


def _columns(header: Sequence[str], task: Task | None, source: str) -> _Columns:
    """Raises ManifestColumnError, or ManifestRowError for a repeated column."""
    repeated = [name for name in set(header) if name and header.count(name) > 1]
    if repeated:
        raise ManifestRowError(
            source, f"the column {repeated[0]!r} is there twice", "Rename or remove one of them."
        )
    missing = [name for name in _REQUIRED if name not in header]
    spare = [name for name in header if name not in _REQUIRED + _OPTIONAL]
    missing += [
        n
        for n in _OPTIONAL
        if n not in header and difflib.get_close_matches(n, map(str.lower, spare), 1, 0.8)
    ]
    images, channels = _image_columns(header, task)
    optional = frozenset(images[n] for n in task.optional_channels) if task and channels else frozenset()
    strange = [name for name in spare if name not in images]
    missing += [
        name
        for name in images
        if name not in header and (name not in optional or difflib.get_close_matches(name, strange, 1, 0.8))
    ]
    raise_faults(
        source, [ManifestColumnError(source, name, found=header, unknown=strange) for name in missing]
    )
    return _Columns(images, channels, optional)


def _image_columns(header: Sequence[str], task: Task | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns of the images and the channels that they name; `image` wins over `image_<channel>`."""
    found = tuple(name for name in header if name.startswith("image_"))
    if "image" in header or not found:
        return ("image",), ()
    channels = (
        tuple(c.name for c in task.channels) if task else tuple(n.removeprefix("image_") for n in found)
    )
    return tuple(f"image_{name}" for name in channels), channels


def _row_faults(
    line: int, row: Sequence[str], form: tuple[Sequence[str], _Columns], source: str
) -> Iterator[ManifestError]:
    header, columns = form
    if len(row) < len(header) or any(row[len(header) :]):
        fault = f"line {line} has {len(row)} cells and the header {len(header)}"
        yield ManifestRowError(source, fault, "Quote cells that hold the separator, and fill in the others.")
        return
    cells = dict(zip(header, row, strict=False))
    for name in ("case_id", "patient_id", *columns.images):
        if name not in columns.optional and not cells[name]:
            yield BlankCellError(source, line, name)
    if columns.optional and not any(cells.get(name) for name in columns.images):
        yield ManifestRowError(source, f"line {line} has no image", "Name one image, or remove the line.")
    if (scope := cells.get("patient_id_scope", "")) not in ("", "site"):
        remedy = "Leave it blank, or write site if each site numbers its own patients."
        yield ManifestRowError(source, f"line {line} has the unknown patient_id_scope {scope!r}", remedy)


def _case(cells: dict[str, str], columns: _Columns, root: Path) -> Case:
    site, patient = cells.get("site", ""), cells["patient_id"]
    known = {*_REQUIRED, *_OPTIONAL, *columns.images, ""}
    images = [cells.get(name, "") for name in columns.images]  # of those not optional none is blank
    return Case(
        case_id=cells["case_id"],
        patient_id=f"{site}/{patient}" if cells.get("patient_id_scope") == "site" else patient,
        site=site,
        images=tuple(_path(root, cell) for cell in images if cell),
        label=_path(root, cells["label"]) if cells["label"] else None,
        attributes={name: value for name, value in cells.items() if name not in known},
        missing=tuple(n for n, cell in enumerate(images) if not cell),
    )


def _path(root: Path, cell: str) -> Path:
    """A path from the manifest; backslashes of a list written on Windows count as slashes."""
    return root / cell.replace("\\", "/")
