"""Which series of a scan a task asks for, and which structures of a drawing are its labels. Pure functions.

Reasons are in our words: no description, name or number of a header stands in them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from medseg_core.config import Channel, SeriesRules, Task
from medseg_core.imaging.dicom.scan import Series

MODALITIES = {"CT": ("CT",), "MR": ("MR",), "PET": ("PT",), "XR": ("CR", "DX", "MG"), "US": (), "fundus": ()}
_LOCALISER = re.compile(r"(locali[sz]er|scout|survey|topogram|3[ -_]?plane|(?<![a-z])loc(?![a-z]))")


@dataclass(frozen=True)
class NotChosen:
    """A series that is not what a channel asks for, and why."""

    series: Series
    reason: str


@dataclass(frozen=True)
class Choice:
    """Series that fit a channel, and those that do not; both in the order that they came in."""

    chosen: tuple[Series, ...]
    left_out: tuple[NotChosen, ...]


def choose_series(series: Sequence[Series], channel: Channel) -> Choice:
    """The series that fit a channel's modality and its rules. A channel of modality "other" takes any modality.

    Localisers by name are left out unless the rules ask for such a name.
    """
    reasons = [_reason(one, channel) for one in series]
    return Choice(
        tuple(one for one, reason in zip(series, reasons, strict=True) if reason is None),
        tuple(
            NotChosen(one, reason) for one, reason in zip(series, reasons, strict=True) if reason is not None
        ),
    )


def label_of(name: str, meaning: str, task: Task) -> int | None:
    """The class of a segment, 1.. in the order of `task.labels`; None where the task does not ask for it.

    Its name, or the meaning of its code, is compared with the patterns of `[task] segments`; of a label that has
    none there, with the label's own name. Of several labels the first counts.
    """
    names = [name, *([meaning] if meaning else [])]
    patterns = [(task.segments or {}).get(label, (label,)) for label in task.labels]
    fitting = (
        n for n, of_label in enumerate(patterns, start=1) if any(_fits(name, of_label) for name in names)
    )
    return next(fitting, None)


def _reason(series: Series, channel: Channel) -> str | None:
    """Why a series is not for a channel; None where it is."""
    rules = channel.series or SeriesRules()
    wanted = MODALITIES.get(channel.modality)
    if wanted is not None and series.modality not in wanted:
        return f"its modality is not {channel.modality}"
    if rules.description and not _fits(series.description, rules.description):
        return "its description is none that the task asks for"
    if _fits(series.description, rules.not_description):
        return "its description is one that the task leaves out"
    if not rules.description and _LOCALISER.search(series.description.lower()):
        return "its description says that it is a localiser"
    if rules.orientation is not None and series.orientation != rules.orientation:
        return f"its slices are {series.orientation or 'of no known orientation'}, not {rules.orientation}"
    if (bounds := rules.slice_thickness_mm) is not None:
        thickness = series.slice_thickness_mm
        if thickness is None:
            return "its slice thickness is not told"
        if not bounds[0] <= thickness <= bounds[1]:
            return f"its slices are {thickness:g} mm thick, not {bounds[0]:g} to {bounds[1]:g} mm"
    return None


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name.strip().lower(), pattern.strip().lower()) for pattern in patterns)
