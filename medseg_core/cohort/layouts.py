"""Folders whose arrangement says which files belong together: Medical Segmentation Decathlon and nnU-Net raw.

Both have imagesTr and labelsTr. In nnU-Net's an image file ends in a channel number (`case_0000.nii.gz`) that
its label (`case.nii.gz`) has not; in the Decathlon's both have one name. Neither knows patients or sites.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg_core.cohort.cases import Cohort, require_consistent
from medseg_core.config import Task
from medseg_core.data_errors import (
    ChannelNamesError,
    ImageWithoutChannelError,
    UnknownLayoutError,
    UnreadableManifestError,
)
from medseg_core.imaging.io import IMAGE_SUFFIXES, file_suffix
from medseg_core.types import Case

_CHANNEL_NUMBER = re.compile(r"(.+)_(\d{4})")
_NO_PATIENTS = (
    "the folder names no patients: every case counts as a patient of its own. Where one patient has several "
    "cases, write a manifest.csv, or test scores will be flattered"
)


def read_layout(folder: Path, task: Task | None) -> Cohort:
    """The cohort of a folder without a manifest. No image is opened. Raises ManifestError leaves."""
    images = _image_files(folder / "imagesTr")
    if not images:
        raise UnknownLayoutError(folder, len(_image_files(folder)), _cohorts_inside(folder))
    description = _description(folder / "dataset.json")
    labels = _image_files(folder / "labelsTr")
    is_nnunet = _is_nnunet(images, labels, description)
    cases = _nnunet_cases(images, labels) if is_nnunet else _decathlon_cases(images, labels, description)
    channels = _channel_names(description)
    if task is not None and channels and len(channels) != len(task.channels):
        source = str(folder / "dataset.json")
        raise ChannelNamesError(source, channels, [c.name for c in task.channels])
    require_consistent(cases, str(folder))
    layout = "nnunet" if is_nnunet else "decathlon"
    spare = sorted(set(labels) - {c.case_id for c in cases})
    warnings = [_NO_PATIENTS]
    warnings += [f"the label {labels[stem].name} has no image and is left out" for stem in spare]
    return Cohort(tuple(cases), folder, layout, channels, tuple(warnings))


def _image_files(folder: Path) -> dict[str, Path]:
    """Files of known formats by their names less the ending, in order; hidden ones, as macOS leaves, are left out."""
    if not folder.is_dir():
        return {}
    files = sorted(
        p for p in folder.iterdir() if not p.name.startswith(".") and file_suffix(p) in IMAGE_SUFFIXES
    )
    return {p.name[: -len(file_suffix(p))]: p for p in files}


def _cohorts_inside(folder: Path) -> list[str]:
    """Folders one level down that would do."""
    inside = sorted(p for p in folder.iterdir() if p.is_dir())
    return [p.name for p in inside if (p / "manifest.csv").is_file() or (p / "imagesTr").is_dir()]


def _description(path: Path) -> Mapping[str, Any]:
    """dataset.json, or nothing where it is absent."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict):
        raise UnreadableManifestError(
            str(path), "it is not readable as a JSON object", "Correct it, or remove it."
        )
    return document


def _channel_names(description: Mapping[str, Any]) -> tuple[str, ...]:
    """`channel_names` (nnU-Net 2) or `modality` (Decathlon, nnU-Net 1), by number."""
    named = description.get("channel_names", description.get("modality"))
    if not isinstance(named, dict) or not all(str(number).isdecimal() for number in named):
        return ()
    return tuple(str(named[number]) for number in sorted(named, key=int))


def _is_nnunet(
    images: Mapping[str, Path], labels: Mapping[str, Path], description: Mapping[str, Any]
) -> bool:
    if "channel_names" in description or "file_ending" in description:
        return True
    return all(_CHANNEL_NUMBER.fullmatch(stem) and stem not in labels for stem in images)


def _decathlon_cases(
    images: Mapping[str, Path], labels: Mapping[str, Path], description: Mapping[str, Any]
) -> list[Case]:
    """One case for each file in imagesTr, and for each that dataset.json lists and that is not there."""
    folder = next(iter(images.values())).parent
    entries = description.get("training")
    listed = (
        [entry.get("image") for entry in entries if isinstance(entry, dict)]
        if isinstance(entries, list)
        else []
    )
    paths = [folder / Path(name).name for name in listed if isinstance(name, str)]
    wanted = {path.name[: -len(file_suffix(path)) or None]: path for path in paths}
    return [
        Case(stem, stem, "", (path,), labels.get(stem)) for stem, path in sorted({**wanted, **images}.items())
    ]


def _nnunet_cases(images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[Case]:
    """One case for all channel files of a name; absent ones below the highest number are named too."""
    channels: dict[str, dict[int, Path]] = {}
    for stem, path in images.items():
        if (match := _CHANNEL_NUMBER.fullmatch(stem)) is None:
            raise ImageWithoutChannelError(path)
        channels.setdefault(match[1], {})[int(match[2])] = path
    cases = []
    for name, found in channels.items():
        folder, suffix = next(iter(found.values())).parent, file_suffix(next(iter(found.values())))
        files = tuple(found.get(n, folder / f"{name}_{n:04d}{suffix}") for n in range(max(found) + 1))
        cases.append(Case(name, name, "", files, labels.get(name)))
    return cases
