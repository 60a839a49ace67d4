"""Is a file whole? Asked before any decoder runs.

SimpleITK fills what a cut or damaged .nii, .nii.gz or .mha lacks with zeros or noise and says nothing, prints
its libraries' complaints on the terminal, and allocates whatever a header claims. So headers are read here
first, sizes are bounded, and compressed data are run through their checksum.
"""

import gzip
import math
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from medseg_core.data_errors import (
    MissingFileError,
    NotFiniteError,
    TooLargeError,
    TruncatedFileError,
    UnreadableFileError,
)

MAX_VOXELS = 2**31  # 8 GiB as float32: four times a whole-body CT of 0.7 mm; no clinical image has more
_BLOCK = 1 << 20
_HEAD = 1 << 16  # bytes in which a header of text ends
_NIFTI_FLOATS = (16, 64)  # codes of float32 and float64
_NIFTI_1, _NIFTI_2 = struct.pack("<i", 348), struct.pack("<i", 540)
_META_BYTES = {
    "CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4,
    "LONG": 4, "ULONG": 4, "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip
_META_NUMBERS = ("TransformMatrix", "Offset", "CenterOfRotation", "ElementSpacing")
_ELEMENT_DATA_FILE = re.compile(rb"^ElementDataFile\s*=\s*([^\r\n]+)\r?\n?", re.MULTILINE)
_LOCAL = "local"  # for ElementDataFile, in any case: behind the header
_COPY_AGAIN = "Copy it again from its source."


@dataclass(frozen=True)
class _File:
    """A readable file of one case."""

    path: Path
    case_id: str
    n_bytes: int

    def unreadable(self, reason: str, remedy: str | None = None) -> UnreadableFileError:
        return UnreadableFileError(self.case_id, self.path, reason, remedy)

    def hold(self, got: int, expected: int) -> None:
        if got < expected:
            detail = f"{got} bytes where its header claims {expected}"
            raise TruncatedFileError(self.case_id, self.path, detail)


@dataclass(frozen=True)
class _NiftiHeader:
    """What a NIfTI header claims of its voxels; `float_type` is None for integers."""

    shape: tuple[int, ...]
    start: int
    n_bytes: int
    float_type: np.dtype[Any] | None


def require_readable(path: Path, case_id: str) -> int:
    """Size in bytes of a file that is there, may be read and is not empty.

    Raises MissingFileError, UnreadableFileError.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableFileError(
                case_id, path, "is a folder", "Name one file; convert a DICOM series to NIfTI first."
            )
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableFileError(case_id, path, "is not a regular file", "Name an image file.")
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the name
        raise MissingFileError(case_id, path, _neighbours(path)) from None
    except PermissionError:
        remedy = "Give the account that runs this program the right to read the file and its folder."
        raise UnreadableFileError(case_id, path, "may not be read: permission denied", remedy) from None
    except OSError as error:
        raise UnreadableFileError(case_id, path, f"cannot be opened ({error.strerror})") from None
    if status.st_size == 0:
        raise UnreadableFileError(case_id, path, "is empty (0 bytes)", _COPY_AGAIN)
    return status.st_size


def require_bounded(path: Path, case_id: str, shape: Sequence[int]) -> None:
    """Raises TooLargeError for a shape of more than MAX_VOXELS."""
    if math.prod(shape) > MAX_VOXELS:
        raise TooLargeError(case_id, path, shape)


def require_whole_nifti(path: Path, case_id: str) -> None:
    """Header sane, size bounded, every voxel there and finite, gzip checksum right.

    NaN is looked for here because ITK's decoder turns it into 0 and says nothing. Raises CaseError leaves.
    """
    file = _File(path, case_id, require_readable(path, case_id))
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if is_compressed else raw
        with _decoding(file):
            header = _nifti_header(file, stream.read(544))
            require_bounded(path, case_id, header.shape)
            stream.seek(header.start)
            got, n_bad = _scan(stream, header)
    file.hold(got, header.n_bytes)
    if n_bad:
        raise NotFiniteError(case_id, str(path), n_bad)


def require_whole_metaimage(path: Path, case_id: str) -> None:
    """Header complete, size bounded, every voxel there, zlib checksum right; .mhd with its data file too."""
    file = _File(path, case_id, require_readable(path, case_id))
    with path.open("rb") as raw:
        head = raw.read(_HEAD)
    fields, start = _meta_header(file, head)
    shape, expected = _meta_claim(file, fields)
    require_bounded(path, case_id, shape)
    if fields["ElementDataFile"].lower() != _LOCAL:
        file, start = _data_file(file, fields["ElementDataFile"]), 0
    got = file.n_bytes - start
    if fields.get("CompressedData", "False").lower() == "true":
        with file.path.open("rb") as raw, _decoding(file):
            raw.seek(start)
            got = _inflate(raw)
    file.hold(got, expected)


def require_whole_nrrd(path: Path, case_id: str) -> None:
    """Magic there, size bounded, gzip checksum right; the decoder itself sees missing voxels, but no changed ones."""
    file = _File(path, case_id, require_readable(path, case_id))
    with path.open("rb") as raw:
        head = raw.read(_HEAD)
    fields, start = _nrrd_header(head)
    sizes = fields.get("sizes", "").split()
    if not head.startswith(b"NRRD") or not sizes or not all(n.isdecimal() for n in sizes):
        raise file.unreadable("is not an NRRD file")
    require_bounded(path, case_id, [int(n) for n in sizes])
    if name := fields.get("datafile"):
        file, start = _data_file(file, name), 0
    if fields.get("encoding", "").lower() not in ("gzip", "gz"):
        return
    with file.path.open("rb") as raw, _decoding(file):
        raw.seek(start)
        _inflate(raw)


def data_file_of(path: Path) -> Path | None:
    """The file that a MetaImage or NRRD header names for its voxels; None: they are behind it, or it is no header.

    Raises OSError.
    """
    with path.open("rb") as raw:
        head = raw.read(_HEAD)
    if head.startswith(b"NRRD"):
        name = _nrrd_header(head)[0].get("datafile")
    else:
        match = _ELEMENT_DATA_FILE.search(head)
        name = match[1].decode("latin-1").strip() if match else None
    return path.parent / name if name and name.lower() != _LOCAL else None


def _neighbours(path: Path) -> list[str]:
    try:
        return [p.name for p in path.parent.iterdir()]
    except (OSError, ValueError):
        return []


@contextmanager
def _decoding(file: _File) -> Iterator[None]:
    """Turns what gzip, zlib and the disk complain of into a fault of this file."""
    try:
        yield
    except EOFError:
        raise TruncatedFileError(file.case_id, file.path, "its compressed data break off") from None
    except (gzip.BadGzipFile, zlib.error):
        raise file.unreadable("is damaged: its checksum does not match", _COPY_AGAIN) from None
    except OSError as error:
        raise file.unreadable(f"cannot be read to its end ({error.strerror})") from None


def _scan(stream: gzip.GzipFile | BufferedReader, header: _NiftiHeader) -> tuple[int, int]:
    """Bytes from here to the end, which checks a gzip file, and how many voxels on the way are not finite."""
    got = n_bad = 0
    while block := stream.read(_BLOCK):
        if header.float_type is not None:
            n = max(0, min(len(block), header.n_bytes - got)) // header.float_type.itemsize
            n_bad += n - int(np.count_nonzero(np.isfinite(np.frombuffer(block, header.float_type, n))))
        got += len(block)
    return got, n_bad


def _inflate(raw: BufferedReader) -> int:
    """Bytes that a zlib or gzip stream unpacks to, checksum included. Raises EOFError, zlib.error."""
    unpacker, n_bytes = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32), 0
    while block := raw.read(_BLOCK):
        while block:
            n_bytes += len(unpacker.decompress(block, _BLOCK))
            block = unpacker.unconsumed_tail
    if not unpacker.eof:
        raise EOFError
    return n_bytes


def _nifti_header(file: _File, head: bytes) -> _NiftiHeader:
    """What a NIfTI-1 or -2 header claims. Raises UnreadableFileError where it makes no sense."""
    not_nifti = file.unreadable("is not a NIfTI file")
    if len(head) < 352:
        raise not_nifti
    order = "<" if head[:4] in (_NIFTI_1, _NIFTI_2) else ">"
    (version,) = struct.unpack(order + "i", head[:4])
    if version == 348 and head[344:347] in (b"n+1", b"ni1"):
        fields = _unpack(order, head, ("8h", 40), ("hh", 70), ("8f", 76), ("f", 108), ("18f", 256))
    elif version == 540 and len(head) >= 540:
        fields = _unpack(order, head, ("8q", 16), ("hh", 12), ("8d", 104), ("q", 168), ("18d", 352))
    else:
        raise not_nifti
    dims, (voxel_type, bits), spacing, (start,), place = fields
    n_axes, used = dims[0], dims[1 : dims[0] + 1]
    if not 1 <= n_axes <= 7 or min(used) < 1 or bits < 1 or not 0 <= start < 2**40:
        raise file.unreadable("has a damaged header: its size makes no sense", _COPY_AGAIN)
    if not np.isfinite(place).all():  # qform and sform, which ITK would complain of on the terminal
        raise file.unreadable("has a damaged header: its position makes no sense", _COPY_AGAIN)
    if not all(math.isfinite(s) and s != 0 for s in spacing[1 : min(n_axes, 3) + 1]):
        raise file.unreadable(
            "claims a voxel spacing of zero or NaN", "Export it again with its true spacing."
        )
    float_type = np.dtype(f"{order}f{bits // 8}") if voxel_type in _NIFTI_FLOATS else None
    return _NiftiHeader(used, max(version, int(start)), math.prod(used) * bits // 8, float_type)


def _unpack(order: str, head: bytes, *fields: tuple[str, int]) -> tuple[tuple[Any, ...], ...]:
    return tuple(struct.unpack_from(order + form, head, at) for form, at in fields)


def _meta_header(file: _File, head: bytes) -> tuple[dict[str, str], int]:
    """Fields of a MetaImage header and where the voxels begin in the same file."""
    match = _ELEMENT_DATA_FILE.search(head)
    lines = head[: match.end()].decode("latin-1").splitlines() if match else []
    pairs = [line.partition("=") for line in lines if line.strip()]
    if match is None or not all(sign for _, sign, _ in pairs):
        raise file.unreadable("is not a MetaImage file")
    return {key.strip(): value.strip() for key, _, value in pairs}, match.end()


def _meta_claim(file: _File, fields: dict[str, str]) -> tuple[tuple[int, ...], int]:
    """Shape and size in bytes of the voxels that a MetaImage header claims."""
    try:
        shape = tuple(int(n) for n in fields["DimSize"].split())
        each = _META_BYTES[fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")]
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        numbers = " ".join(value for key, value in fields.items() if key in _META_NUMBERS).split()
        is_sound = len(shape) == int(fields["NDims"]) and min(*shape, channels) >= 1
        is_sound = is_sound and all(math.isfinite(float(n)) for n in numbers)
    except (KeyError, ValueError, TypeError):
        is_sound = False
    if not is_sound:
        raise file.unreadable("has a damaged header: its numbers make no sense", _COPY_AGAIN)
    return shape, math.prod(shape) * each * channels


def _nrrd_header(head: bytes) -> tuple[dict[str, str], int]:
    """Fields of an NRRD header, their names in small letters without spaces, and where it ends."""
    end = re.search(rb"\r?\n\r?\n", head)
    text = (head[: end.start()] if end else head).decode("latin-1")
    fields = re.findall(r"^([^:#\n]+): +(.+?)\s*$", text, re.MULTILINE)  # `name:=value` is no field
    return {name.lower().replace(" ", ""): value for name, value in fields}, end.end() if end else len(head)


def _data_file(file: _File, name: str) -> _File:
    """The one file beside a header that holds its voxels."""
    if name.split()[0] == "LIST" or "%" in name:
        raise file.unreadable("is spread over several data files", "Save it as one .mha or .nii.gz file.")
    beside = file.path.parent / name
    return _File(beside, file.case_id, require_readable(beside, file.case_id))
