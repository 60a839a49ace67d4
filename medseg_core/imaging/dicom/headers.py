"""A DICOM header, read with bounded memory and without trust.

Attributes come as text, finite numbers or items through the functions here, and what is wrong is told in our words.
"""

import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medseg_core.dicom_errors import (
    DamagedDicomError,
    DicomHeaderError,
    NotDicomError,
    TooLargeDicomError,
)
from medseg_core.errors import CaseError
from medseg_core.imaging.integrity import require_readable

MAX_INFLATED_BYTES = 2**29  # of a deflated file: more than any SEG of a whole body
_LARGE_VALUE_BYTES = 2**20  # a larger value of a header is left in the file until somebody asks
_BLOCK = 1 << 20
# What pydicom raises over damaged bytes
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # what matters is checked here
logging.getLogger("pydicom").propagate = False  # it logs values of headers, which may name a patient


@contextmanager
def decoding(path: Path, fault: str = "it is damaged or cut short") -> Iterator[None]:
    """Turns what pydicom complains of into a fault of this file; its warnings are not told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _DAMAGE:
        raise DamagedDicomError(path, fault) from None


def read_header(path: Path, keywords: Sequence[str | int] | None = None) -> Dataset:
    """The header of a file up to its pixels, all of it or some attributes, by keyword or tag.

    Raises DicomError leaves.
    """
    return _read(path, keywords, stop_before_pixels=True)


def read_whole(path: Path) -> Dataset:
    """A file with its pixels, which are still as stored. Raises DicomError leaves."""
    return _read(path, None, stop_before_pixels=False)


def _read(path: Path, keywords: Sequence[str | int] | None, *, stop_before_pixels: bool) -> Dataset:
    _require_dicom(path)
    with decoding(path):
        meta = pydicom.filereader.read_file_meta_info(path)
        is_deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if is_deflated:
        _require_bounded(path)
    with decoding(path):
        header = pydicom.dcmread(
            path,
            stop_before_pixels=stop_before_pixels,
            specific_tags=[Tag(one) for one in keywords] if keywords else None,
            defer_size=_LARGE_VALUE_BYTES if stop_before_pixels and not is_deflated else None,
        )
    if "TransferSyntaxUID" not in header.file_meta:
        raise DicomHeaderError(path, "TransferSyntaxUID", "is missing")
    return header


def _require_dicom(path: Path) -> None:
    """Raises NotDicomError unless a regular, readable file has the mark DICM at byte 128."""
    try:
        require_readable(path, "")
    except CaseError as error:
        raise NotDicomError(path, f"the file {_reason(error)}", error.remedy.rstrip(".")) from None
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            raise NotDicomError(path)


def _reason(error: CaseError) -> str:
    return getattr(error, "reason", "is not there")


def _require_bounded(path: Path) -> None:
    """Raises TooLargeDicomError where a deflated file unpacks to more than any has; in bounded memory."""
    with path.open("rb") as file, decoding(path):
        pydicom.filereader.read_preamble(file, force=False)
        pydicom.filereader._read_file_meta_info(file)
        unpacker, n_bytes = zlib.decompressobj(wbits=-zlib.MAX_WBITS), 0
        while block := file.read(_BLOCK):
            while block and n_bytes <= MAX_INFLATED_BYTES:
                n_bytes += len(unpacker.decompress(block, _BLOCK))
                block = unpacker.unconsumed_tail
    if n_bytes > MAX_INFLATED_BYTES:
        raise TooLargeDicomError(path, f"it unpacks to more than {MAX_INFLATED_BYTES >> 20} MiB")


def _value(header: Dataset, keyword: str) -> Any:
    """An attribute, which pydicom makes of its bytes only now, and may complain of on the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return header.get(keyword)


def text(header: Dataset, keyword: str) -> str:
    """An attribute as text, values joined as DICOM joins them; "" where it is missing or nonsense."""
    try:
        value = _value(header, keyword)
        if value is None:
            return ""
        is_several = isinstance(value, list | pydicom.multival.MultiValue)
        return "\\".join(map(str, value)) if is_several else str(value).strip()
    except _DAMAGE:
        return ""


def words(header: Dataset, keyword: str) -> tuple[str, ...]:
    """An attribute's values in upper case, as ImageType's; none where it is missing."""
    return tuple(word.strip().upper() for word in text(header, keyword).split("\\") if word.strip())


def numbers(header: Dataset, keyword: str, n: int, where: Path | str) -> tuple[float, ...] | None:
    """`n` finite numbers of an attribute; None where it is missing or blank. Raises DicomHeaderError."""
    try:
        value = _value(header, keyword)
        if value is None or value == "":
            return None
        found = tuple(map(float, value)) if hasattr(value, "__len__") else (float(value),)
    except _DAMAGE:
        raise DicomHeaderError(where, keyword, "is not a number") from None
    if not found:
        return None
    if len(found) != n:
        raise DicomHeaderError(where, keyword, f"has {len(found)} number(s) where {n} belong")
    if not all(map(math.isfinite, found)):
        raise DicomHeaderError(where, keyword, "is NaN or infinite")
    return found


def number(header: Dataset, keyword: str, where: Path | str) -> float | None:
    """One finite number; None where it is missing or blank. Raises DicomHeaderError."""
    found = numbers(header, keyword, 1, where)
    return found[0] if found else None


def count(header: Dataset, keyword: str, where: Path | str) -> int:
    """A whole number of at least 1. Raises DicomHeaderError."""
    found = number(header, keyword, where)
    if found is None:
        raise DicomHeaderError(where, keyword, "is missing")
    if found < 1 or found != int(found):
        raise DicomHeaderError(where, keyword, f"is {found:g}")
    return int(found)


def items(header: Dataset, keyword: str, where: Path | str) -> tuple[Dataset, ...]:
    """The items of a sequence; none where it is missing. Raises DicomHeaderError."""
    try:
        value = _value(header, keyword)
        found = () if value is None or value == "" else tuple(value)
    except _DAMAGE:
        raise DicomHeaderError(where, keyword, "is damaged") from None
    if not all(isinstance(item, Dataset) for item in found):
        raise DicomHeaderError(where, keyword, "is not a sequence of items")
    return found


def item(header: Dataset, keyword: str, where: Path | str) -> Dataset:
    """The first item of a sequence, an empty one where it is missing. Raises DicomHeaderError."""
    found = items(header, keyword, where)
    return found[0] if found else Dataset()
