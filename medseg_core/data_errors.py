"""What can be wrong with a case or a list of cases: the leaves of CaseError and ManifestError.

Each leaf carries its facts and builds `case CASE: FAULT. REMEDY.` or `LIST: FAULT. REMEDY.`
Nothing that a decoding library said is repeated: its wording names its own source files, not the user's.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from medseg_core.errors import CaseError, DataError, ManifestError


def _grid(numbers: Sequence[int | float]) -> str:
    return "x".join(f"{n:g}" for n in numbers)


def _listed(items: Sequence[object], most: int = 8) -> str:
    shown = ", ".join(str(item) for item in items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown


def _near(name: str, known: Sequence[str]) -> str | None:
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.7)
    return by_lower[found[0]] if found else None


def _bare(name: str) -> str:
    stem = name.lower().removesuffix(".gz")
    return re.sub(r"[\W_]", "", stem.rsplit(".", 1)[0])


# ---- one file ----------------------------------------------------------------------------------------------


class MissingFileError(CaseError):
    """A file that the list names is not there; `neighbours` are the names in its folder.

    One is suggested where case, punctuation or the ending alone differ: another digit is another patient.
    """

    def __init__(self, case_id: str, path: Path, neighbours: Sequence[str] = ()) -> None:
        self.path, near = path, next((n for n in sorted(neighbours) if _bare(n) == _bare(path.name)), None)
        hint = f"{near} lies there: correct the name" if near else "Correct the path, or copy the file there"
        super().__init__(case_id, f"there is no file {path}", f"{hint}.")


class MissingLabelError(CaseError):
    """A case has no label where one is needed."""

    def __init__(self, case_id: str) -> None:
        super().__init__(
            case_id, "no label file is named", "Add its label to the list, or take the case out."
        )


class UnreadableFileError(CaseError):
    """A file is there and cannot be opened as what its name says."""

    def __init__(self, case_id: str, path: Path, reason: str, remedy: str | None = None) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            case_id, f"{path} {reason}", remedy or "Open it in a viewer; export or copy it again."
        )


class TruncatedFileError(UnreadableFileError):
    """A file ends before its last voxel."""

    def __init__(self, case_id: str, path: Path, detail: str = "") -> None:
        remedy = "Copy it again from its source: the transfer was cut short."
        super().__init__(case_id, path, f"is incomplete{detail and ': '}{detail}", remedy)


class UnsupportedFormatError(UnreadableFileError):
    """A file's ending names no format that is read here."""

    def __init__(self, case_id: str, path: Path, known: Sequence[str]) -> None:
        is_dicom = path.suffix.lower() in {".dcm", ".ima"}
        remedy = f"Convert it to one of {', '.join(known)}" + (
            ", for example with dcm2niix." if is_dicom else "."
        )
        super().__init__(
            case_id, path, f"has the ending {path.suffix or '(none)'}, which is not read", remedy
        )


class TooLargeError(CaseError):
    """A header claims more voxels than any image has; nothing was allocated."""

    def __init__(self, case_id: str, path: Path, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        remedy = "Correct the header if it is damaged; crop or downsample the image if it is not."
        super().__init__(case_id, f"{path} claims {_grid(shape)} voxels, more than can be held", remedy)


class DimensionError(CaseError):
    """A file has too few or too many spatial axes."""

    def __init__(self, case_id: str, path: Path, shape: Sequence[int], spatial_dims: int) -> None:
        self.shape = tuple(shape)
        remedy = f"Give {spatial_dims}D files, or set [task] spatial_dims = {len(shape)}."
        fault = f"{path} is {len(shape)}D ({_grid(shape)}) and the task is {spatial_dims}D"
        super().__init__(case_id, fault, remedy if len(shape) in (2, 3) else f"Give {spatial_dims}D files.")


class UnnamedChannelsError(CaseError):
    """A volume has one axis more than space has, and nothing says that it holds channels."""

    def __init__(self, case_id: str, path: Path, shape: Sequence[int], n_channels: int) -> None:
        self.shape = tuple(shape)
        super().__init__(
            case_id,
            f"{path} is {len(shape)}D ({_grid(shape)}) and the task names {n_channels} channel(s)",
            f"If its last axis holds channels, name all {shape[-1]} in [task] channels; if it holds time points, "
            "give one file for each case.",
        )


class ChannelCountError(CaseError):
    """An image has another number of channels than the task names."""

    def __init__(self, case_id: str, path: Path, got: int, expected: int) -> None:
        self.got, self.expected = got, expected
        each = " One file for each channel will do, an optional one left empty: FILE,FILE."
        super().__init__(
            case_id,
            f"{path} has {got} channel(s) and the task names {expected}",
            f"Name {got} in [task] channels, or give files with {expected}.{each if expected > 1 else ''}",
        )


class MissingChannelError(CaseError):
    """A case has no file of a channel that the task needs."""

    def __init__(self, case_id: str, channel: str) -> None:
        self.channel = channel
        remedy = "Give the file; only a task that has it as optional does without."
        super().__init__(case_id, f"there is no image of channel {channel}", remedy)


class LossyLabelError(CaseError):
    """A label file is a JPEG whose compression has blurred its values."""

    def __init__(self, case_id: str, path: Path, n_values: int) -> None:
        remedy = "Save it from its source as PNG: JPEG changes the values that it stores."
        super().__init__(case_id, f"the label {path} is a JPEG with {n_values} different values", remedy)


class GridTooLargeError(DataError):
    """Resampling would make more voxels than can be held."""

    def __init__(self, shape: Sequence[int], spacing: Sequence[int | float]) -> None:
        super().__init__(
            f"a spacing of {_grid(spacing)} would make a volume of {_grid(shape)} voxels. "
            "Choose a coarser [task] spacing_mm, or correct the spacing in the file's header."
        )


class ColourLabelError(CaseError):
    """A label file is a colour picture whose channels say different things."""

    def __init__(self, case_id: str, path: Path) -> None:
        remedy = "Save it with one channel that holds label numbers (PNG, or a NIfTI of the image's size)."
        super().__init__(case_id, f"the label {path} is a colour picture", remedy)


# ---- image and label ---------------------------------------------------------------------------------------


class GeometryMismatchError(CaseError):
    """Two files of a case do not lie on one grid; `quantity` is shape, spacing, origin or direction."""

    def __init__(
        self, case_id: str, quantity: str, *, names: tuple[str, str], values: tuple[str, str]
    ) -> None:
        self.quantity = quantity
        remedy = f"Resample the {names[0]} onto the {names[1]}'s grid, or correct its header."
        super().__init__(
            case_id, f"{names[0]} {quantity} {values[0]} differs from {names[1]} {values[1]}", remedy
        )


class NotFiniteError(CaseError):
    """A channel or a file holds NaN or infinite values."""

    def __init__(self, case_id: str, where: str, n_voxels: int) -> None:
        self.n_voxels = n_voxels
        remedy = "Replace them by the background's value, or export the image again."
        super().__init__(case_id, f"{where} has {n_voxels} voxel(s) that are NaN or infinite", remedy)


class ConstantImageError(CaseError):
    """An image has one value everywhere."""

    def __init__(self, case_id: str, channel: str, value: float) -> None:
        self.value = value
        remedy = "Export the image again, or take the case out of the list."
        super().__init__(case_id, f"{channel} is {value:g} everywhere", remedy)


class EmptyLabelError(CaseError):
    """A label has no foreground and the task forbids that."""

    def __init__(self, case_id: str) -> None:
        remedy = "Annotate it, take it out of the list, or set [task] allow_empty_label = true."
        super().__init__(case_id, "the label has no foreground voxel", remedy)


class UnknownLabelError(CaseError):
    """A label has values that the task does not name; `lossy`: the file is a JPEG."""

    def __init__(self, case_id: str, values: Sequence[int], known: Sequence[str]) -> None:
        self.values = tuple(values)
        remedy = (
            f"Known are {_listed(known, 20)}. Add to [task] labels, set ignore_value, or correct the label. What one "
            "site alone writes belongs into labels of that site, or [task] background."
        )
        super().__init__(case_id, f"the label has the unknown value(s) {_listed(values)}", remedy)


class NonIntegerLabelError(CaseError):
    """A label holds fractions, NaN or numbers beyond 32 bits."""

    def __init__(self, case_id: str, path: Path, example: float) -> None:
        self.example = example
        remedy = (
            "Labels are whole numbers: export it without interpolation (nearest neighbour), or threshold it."
        )
        super().__init__(case_id, f"the label {path} holds {example:g}", remedy)


# ---- a list of cases ---------------------------------------------------------------------------------------


class UnreadableManifestError(ManifestError):
    """A list of cases cannot be opened or is not the text that it should be."""


class ManifestColumnError(ManifestError):
    """A manifest lacks a column. A near miss among the columns that nothing knows is suggested, else all are listed."""

    def __init__(self, source: str, missing: str, *, found: Sequence[str], unknown: Sequence[str]) -> None:
        near = _near(missing, unknown)
        hint = f"Rename {near!r} to {missing!r}" if near else f"Found are {_listed(found, 20)}: add it"
        super().__init__(source, f"there is no column {missing!r}", f"{hint}.")


class BlankCellError(ManifestError):
    """A cell that must be filled is blank."""

    def __init__(self, source: str, line: int, column: str) -> None:
        super().__init__(source, f"line {line} has no {column}", "Fill the cell in, or remove the line.")


class ManifestRowError(ManifestError):
    """A row does not fit the columns, or a cell holds what it must not."""


class EmptyManifestError(ManifestError):
    """A list names no case."""

    def __init__(self, source: str) -> None:
        super().__init__(source, "it lists no cases", "Add one line for each case below the header.")


class DuplicateCaseError(ManifestError):
    """Two rows have one case_id, or ids that one folder name would stand for."""

    def __init__(self, source: str, first: str, second: str) -> None:
        fault = f"case_id {first} is there twice"
        if first != second:
            fault = f"case_id {first} and {second} differ in upper and lower case only"
        super().__init__(
            source, fault, "Give every case an identifier of its own, or remove the repeated line."
        )


class SharedImageError(ManifestError):
    """One file serves as the image of two cases, or as image and label of one."""

    def __init__(self, source: str, path: Path, users: Sequence[str]) -> None:
        remedy = "Name the right file for each, or remove the repeated line."
        super().__init__(source, f"{path} is used twice ({_listed(users)})", remedy)


class PatientInTwoSitesError(ManifestError):
    """One patient identifier occurs at two sites, so that training and test sets may share a patient."""

    def __init__(self, source: str, patient_id: str, sites: Sequence[str]) -> None:
        super().__init__(
            source,
            f"patient {patient_id} is listed at the sites {', '.join(s or '(blank)' for s in sites)}",
            "Correct the site, or add a column patient_id_scope with the value site if each numbers its own.",
        )


class UnsafeNameError(ManifestError):
    """An identifier cannot be the name of a file on every system."""

    def __init__(self, source: str, what: str, name: str, suggestion: str) -> None:
        remedy = f"Use letters, digits, _ . - (64 at most, no dot first), for example {suggestion!r}."
        super().__init__(source, f"{what} {name!r} cannot be a file name", remedy)


class SiteSpellingError(ManifestError):
    """Two sites differ in upper and lower case only."""

    def __init__(self, source: str, first: str, second: str) -> None:
        super().__init__(
            source, f"the sites {first} and {second} differ in upper and lower case only", "Spell both alike."
        )


class UnknownLayoutError(ManifestError):
    """A folder holds no list of cases and no known arrangement of files; `inside` are its folders that do."""

    def __init__(self, folder: Path, n_images: int, inside: Sequence[str]) -> None:
        held = f"it holds {n_images} image files, but" if n_images else "it has"
        layouts = (
            "Add manifest.csv with the columns case_id, patient_id, site, image (or image_<channel>) and label; or "
            "use the Decathlon layout (dataset.json, imagesTr, labelsTr) or nnU-Net's (imagesTr/CASE_0000.nii.gz, "
            "labelsTr)."
        )
        remedy = f"Give one of its folders: {_listed(inside)}." if inside else layouts
        super().__init__(str(folder), f"{held} no list of cases", remedy)


class ImageWithoutChannelError(ManifestError):
    """A file of nnU-Net's layout does not say which channel it is."""

    def __init__(self, path: Path) -> None:
        remedy = (
            f"Name it CASE_0000{''.join(path.suffixes[-2:])} (0000 for the first channel), or move it away."
        )
        super().__init__(str(path.parent), f"{path.name} has no channel number", remedy)


class ChannelNamesError(ManifestError):
    """The channels of a list are not the task's."""

    def __init__(self, source: str, found: Sequence[str], expected: Sequence[str]) -> None:
        remedy = "Make [task] channels name the same ones in the same order."
        ours, theirs = ", ".join(expected), ", ".join(found)
        fault = f"it names {len(found)} channel(s) ({theirs}) and the task {len(expected)} ({ours})"
        super().__init__(source, fault, remedy)


class SeveralManifestFaultsError(ManifestError):
    """More than one thing is wrong with a list; `faults` holds each."""

    def __init__(self, source: str, faults: Sequence[ManifestError]) -> None:
        self.faults = tuple(faults)
        told = [f"{f.fault}. {f.remedy}" for f in faults[:20]]
        rest = f" and {len(faults) - 20} more." if len(faults) > 20 else ""
        listed = f"{len(faults)} faults:\n- " + "\n- ".join(told) + rest
        super().__init__(source, listed.removesuffix("."), "Correct all of them.")
