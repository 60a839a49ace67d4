"""What can be wrong with DICOM of a hospital, as `WHERE: FAULT. REMEDY`: the leaves of DicomError.

`where` may name a file. `fault` and `remedy` hold our words and numbers alone: no path, no identifier, no text that
stands in a header, so that they may be shown beside a pseudonym. No message repeats what a decoding library said.
"""

from collections.abc import Sequence
from pathlib import Path

from medseg_core.errors import DataError

_EXPORT_AGAIN = "Export it again from the PACS, or take it out"


def _millimetres(numbers: Sequence[float]) -> str:
    return ", ".join(f"{n:.4g}" for n in numbers) + " mm"


class DicomError(DataError):
    """A file or series cannot be used."""

    def __init__(self, where: Path | str, fault: str, remedy: str = _EXPORT_AGAIN) -> None:
        self.where, self.fault, self.remedy = str(where), fault, remedy
        super().__init__(f"{where}: {fault}. {remedy}.")


# ---- one file ----------------------------------------------------------------------------------------------


class NotDicomError(DicomError):
    """A file is no DICOM, or may not be read."""

    def __init__(
        self, path: Path, fault: str = "it is not a DICOM file", remedy: str = "Take it out"
    ) -> None:
        super().__init__(path, fault, remedy)


class NoSliceError(DicomError):
    """A file is whole, and no slice of a volume: no series lacks it."""

    def __init__(self, path: Path, fault: str, remedy: str = "Nothing needs doing") -> None:
        super().__init__(path, fault, remedy)


class DamagedDicomError(DicomError):
    """A file breaks off, or its bytes make no sense."""

    def __init__(self, path: Path, fault: str = "it is damaged or cut short") -> None:
        super().__init__(path, fault, "Copy or export it again: the transfer may have been cut short")


class TooLargeDicomError(DicomError):
    """A header claims, or compressed bytes unpack to, more than any image has; nothing was allocated."""

    def __init__(self, where: Path | str, fault: str) -> None:
        super().__init__(where, fault, "Export it again, uncompressed; if it stays so, take it out")


class UnsupportedDicomError(DicomError):
    """A kind of object, compression or picture that is not read here."""

    def __init__(self, where: Path | str, fault: str, remedy: str) -> None:
        super().__init__(where, fault, remedy)


class DicomHeaderError(DicomError):
    """An attribute is missing or makes no sense; `attribute` is DICOM's keyword."""

    def __init__(self, where: Path | str, attribute: str, fault: str) -> None:
        self.attribute = attribute
        super().__init__(
            where, f"its {attribute} {fault}", "Correct the header, or export it again from the scanner"
        )


class PixelDataError(DicomError):
    """The pixels are not as the header says."""

    def __init__(self, where: Path | str, fault: str) -> None:
        super().__init__(where, fault, "Copy or export it again: the transfer may have been cut short")


# ---- a series ----------------------------------------------------------------------------------------------


class MixedSeriesError(DicomError):
    """Slices of one series do not belong into one volume; `quantity` is what they differ in."""

    def __init__(self, where: Path | str, quantity: str, values: tuple[str, str]) -> None:
        self.quantity = quantity
        remedy = "Export each part as a series of its own, or take the odd images out"
        super().__init__(where, f"its slices differ in {quantity} ({values[0]} and {values[1]})", remedy)


class RepeatedSliceError(DicomError):
    """Several slices lie at one place: echoes, time points, diffusion weights or copies in one series."""

    def __init__(self, where: Path | str, n_places: int, n_slices: int) -> None:
        self.n_places, self.n_slices = n_places, n_slices
        fault = f"its {n_slices} slices lie at {n_places} places only, as with echoes, time points or copies"
        super().__init__(where, fault, "Export each echo, time point or repetition as a series of its own")


class SliceSpacingError(DicomError):
    """Slices are missing, or not evenly spaced; `steps_mm` are the least and the largest step."""

    def __init__(self, where: Path | str, steps_mm: tuple[float, float], n_missing: int) -> None:
        self.steps_mm, self.n_missing = steps_mm, n_missing
        if n_missing:
            fault = f"{n_missing} slice(s) are missing: steps of {_millimetres(steps_mm)}"
            remedy = "Fetch the series again, whole"
        else:
            fault = f"its slices are not evenly spaced: steps of {_millimetres(steps_mm)}"
            remedy = "Let the scanner reconstruct it with even spacing, or resample it"
        super().__init__(where, fault, remedy)


class IncompleteSeriesError(DicomError):
    """A file that may be a slice cannot be used: at an end of the series nothing else would show that it is missing."""

    def __init__(self, path: Path, reason: str, n_lost: int, n_files: int) -> None:
        self.n_lost, self.n_files = n_lost, n_files
        fault = f"{reason}: {n_lost} of {n_files} files cannot be used, and slices may be missing"
        remedy = "Copy or export the series again, whole; take the file out only if it is none of its slices"
        super().__init__(path, fault, remedy)


class TiltedSeriesError(DicomError):
    """Slices are shifted against each other, as with a tilted gantry: their grid is not at right angles."""

    def __init__(self, where: Path | str, shift_mm: float) -> None:
        self.shift_mm = shift_mm
        fault = f"its slices are shifted sideways by {_millimetres([shift_mm])} from one to the next (tilted gantry)"
        super().__init__(where, fault, "Let the scanner or a viewer reconstruct it without tilt")


class PetUnitsError(DicomError):
    """A PET series cannot be told in standardised uptake values."""

    def __init__(self, where: Path | str, fault: str) -> None:
        remedy = "Export it in Bq/mL, decay-corrected, with weight, dose, time of injection and half-life"
        super().__init__(where, fault, remedy)


# ---- segmentations -----------------------------------------------------------------------------------------


class ForeignSegmentationError(DicomError):
    """A segmentation does not lie on the grid or in the frame of reference of the image it is read for."""

    def __init__(self, where: Path | str, fault: str) -> None:
        super().__init__(where, fault, "Choose the segmentation that was drawn on this series")


class SegmentationError(DicomError):
    """A SEG or RTSTRUCT contradicts itself or holds what is not read."""


# ---- a result ----------------------------------------------------------------------------------------------


class SeriesChoiceError(DicomError):
    """It is not plain which series are meant."""
