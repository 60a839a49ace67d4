"""What is in a cohort and what is wrong with it: every case opened, nothing refused at the first fault."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from medseg_core.cohort.cases import Cohort
from medseg_core.cohort.labels import count_values, label_name, map_labels
from medseg_core.cohort.loading import (
    grid_faults,
    image_faults,
    label_warnings,
    open_image,
    open_label,
    orientation_warnings,
)
from medseg_core.config import Task
from medseg_core.errors import CaseError
from medseg_core.types import Case, Geometry, Volume

MAX_THREADS = 4  # decoding runs beside Python; more would only hold more volumes in memory


@dataclass(frozen=True)
class CaseFacts:
    """What the files of one case hold."""

    case: Case
    geometry: Geometry
    intensities: tuple[tuple[float, float], ...]  # (least, greatest) of each channel, NaN left out
    label_voxels: Mapping[str, int] | None  # by label name, without a task by value; None: no readable label

    @property
    def label_sizes(self) -> dict[str, float]:
        """Size of each label in mL; in pixels (voxels) where the format knows no millimetres."""
        spacing = self.geometry.spacing_mm
        each = float(np.prod(spacing)) / 1000 if spacing and len(spacing) == 3 else 1.0
        return {name: n * each for name, n in (self.label_voxels or {}).items()}


@dataclass(frozen=True)
class CheckReport:
    """Facts of every case that could be opened, every fault, and what is odd but usable."""

    n_cases: int
    facts: tuple[CaseFacts, ...]
    faults: tuple[CaseError, ...]
    warnings: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """No case has a fault."""
        return not self.faults


@dataclass
class _Findings:
    """What one case gave so far."""

    facts: CaseFacts | None = None
    digest: bytes = b""
    faults: list[CaseError] = field(default_factory=list)
    warnings: tuple[str, ...] = ()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keeps a fault instead of raising it."""
        try:
            yield
        except CaseError as fault:
            self.faults.append(fault)


def check_cohort(
    cohort: Cohort,
    task: Task | None,
    *,
    at_case: Mapping[str, Task] = MappingProxyType({}),
    on_case: Callable[[], None] = lambda: None,
) -> CheckReport:
    """Every case opened and checked, a few at a time; never raises for a bad case.

    Without a task: facts as found. `at_case` has, by name, the task of cases whose label files hold other values.
    `on_case` is called after each, from another thread.
    """

    def check(case: Case) -> _Findings:
        findings = _check_case(case, at_case.get(case.case_id, task))
        on_case()
        return findings

    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        found = list(pool.map(check, cohort.cases))
    warnings = [text for findings in found for text in findings.warnings]
    return CheckReport(
        n_cases=len(cohort.cases),
        facts=tuple(findings.facts for findings in found if findings.facts),
        faults=tuple(fault for findings in found for fault in findings.faults),
        warnings=(*cohort.warnings, *warnings, *_copies(found)),
    )


def _check_case(case: Case, task: Task | None) -> _Findings:
    findings, image, label = _Findings(), None, None
    with findings.collecting():
        image = open_image(case, task)
    if case.label is not None or task is not None:
        with findings.collecting():
            label = open_label(case, task)
    if image is not None:
        findings.warnings = orientation_warnings(case)
        findings.faults += image_faults(image, case, task)
        findings.facts = _facts(case, image, label, task)
        findings.digest = _digest(image)
    if image is not None and label is not None:
        findings.faults += grid_faults(
            label.geometry, image.geometry, names=("label", "image"), case_id=case.case_id
        )
    if label is not None and task is not None:
        with findings.collecting():
            findings.warnings += label_warnings(
                map_labels(label.voxels[0], task, case_id=case.case_id), case, task
            )
    return findings


def _digest(image: Volume) -> bytes:
    voxels = image.voxels.transpose(0, *range(image.voxels.ndim - 1, 0, -1))  # as they lie in memory
    return hashlib.sha256(np.ascontiguousarray(voxels).data).digest()


def _facts(case: Case, image: Volume, label: Volume | None, task: Task | None) -> CaseFacts:
    voxels: dict[str, int] | None = None
    if label is not None:
        voxels = {name: 0 for name, wanted in task.labels.items() if wanted != ()} if task else {}
        for value, n in count_values(label.voxels).items():
            if (name := label_name(value, task)) is not None:
                voxels[name] = voxels.get(name, 0) + n
    ranges = tuple(
        (float(np.fmin.reduce(v, axis=None)), float(np.fmax.reduce(v, axis=None))) for v in image.voxels
    )
    return CaseFacts(case, image.geometry, ranges, voxels)


def _copies(found: Sequence[_Findings]) -> list[str]:
    """A warning for images that agree in every voxel though their files differ."""
    groups: dict[bytes, list[str]] = defaultdict(list)
    for findings in found:
        if findings.facts is not None:
            groups[findings.digest].append(findings.facts.case.case_id)
    return [
        f"cases {', '.join(names)}: their images agree in every voxel. Keep one, or scores will be flattered"
        for names in groups.values()
        if len(names) > 1
    ]
