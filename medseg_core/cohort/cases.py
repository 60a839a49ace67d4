"""A cohort, and what must hold between its cases before any image is opened."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from medseg_core.data_errors import (
    DuplicateCaseError,
    EmptyManifestError,
    PatientInTwoSitesError,
    SeveralManifestFaultsError,
    SharedImageError,
    SiteSpellingError,
    UnsafeNameError,
)
from medseg_core.errors import ManifestError
from medseg_core.types import Case

K = TypeVar("K")
V = TypeVar("V")

_SAFE_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
)  # config.Name: sites and cases name files and folders
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # names that Windows keeps for itself


@dataclass(frozen=True)
class Cohort:
    """Cases that are consistent with each other; their files are not opened yet."""

    cases: tuple[Case, ...]
    root: Path
    layout: str  # "manifest", "decathlon" or "nnunet"
    channels: tuple[str, ...] = ()  # where the list names them
    warnings: tuple[str, ...] = ()


def require_consistent(cases: Sequence[Case], source: str) -> None:
    """Identifiers are safe and unique, files serve one case each, patients stay at one site.

    Raises a ManifestError leaf, or SeveralManifestFaultsError with every fault.
    """
    if not cases:
        raise EmptyManifestError(source)
    raise_faults(
        source,
        [*_unsafe(cases, source), *_repeated(cases, source), *_shared(cases, source), *_split(cases, source)],
    )


def raise_faults(source: str, faults: Sequence[ManifestError]) -> None:
    """Raises the fault, or all of them in one; nothing where there is none."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise SeveralManifestFaultsError(source, faults)


def _unsafe(cases: Sequence[Case], source: str) -> Iterator[ManifestError]:
    named = [("case_id", name) for name in _unique(c.case_id for c in cases)]
    named += [("site", name) for name in _unique(c.site for c in cases) if name]
    for what, name in named:
        if not _SAFE_NAME.fullmatch(name) or name.endswith(".") or _DEVICES.fullmatch(name):
            yield UnsafeNameError(source, what, name, _suggestion(name))


def _suggestion(name: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")[:60] or "name"
    return f"{stem}_" if _DEVICES.fullmatch(stem) else stem


def _repeated(cases: Sequence[Case], source: str) -> Iterator[ManifestError]:
    for names in _grouped((c.case_id.lower(), c.case_id) for c in cases).values():
        if len(names) > 1:
            yield DuplicateCaseError(source, names[0], names[1])
    for names in _grouped((c.site.lower(), c.site) for c in cases).values():
        if len(spellings := _unique(names)) > 1:
            yield SiteSpellingError(source, spellings[0], spellings[1])


def _shared(cases: Sequence[Case], source: str) -> Iterator[ManifestError]:
    users = _grouped((_real(path), c.case_id) for c in cases for path in c.images)
    for case in cases:
        if case.label is not None and (label := _real(case.label)) in users:
            users[label].append(f"{case.case_id} as label")
    for path, names in users.items():
        if len(names) > 1:
            yield SharedImageError(source, Path(path), names)


def _real(path: Path) -> str:
    """One name for one file, links followed; never raises, as Path.resolve does on a loop of links."""
    return os.path.realpath(path)


def _split(cases: Sequence[Case], source: str) -> Iterator[ManifestError]:
    for patient, sites in _grouped((c.patient_id, c.site) for c in cases).items():
        if len(found := _unique(sites)) > 1:
            yield PatientInTwoSitesError(source, patient, found)


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    groups: dict[K, list[V]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
