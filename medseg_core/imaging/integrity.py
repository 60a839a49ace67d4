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
from pathlib import Path
from typing import Any, BinaryIO

from medseg_core.data_errors import MissingFileError, TooLargeError, TruncatedFileError, UnreadableFileError

MAX_VOXELS = 2**31  # 8 GiB as float32: four times a whole-body CT of 0.7 mm; no clinical image has more
_BLOCK = 1 << 20
_NIFTI_1, _NIFTI_2 = struct.pack("<i", 348), struct.pack("<i", 540)
_META_BYTES = {
    "CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4,
    "LONG": 4, "ULONG": 4, "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip
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
    except (FileNotFoundError, NotADirectoryError):
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
    """Header sane, size bounded, every voxel there, gzip checksum right. Raises CaseError leaves."""
    file = _File(path, case_id, require_readable(path, case_id))
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if is_compressed else raw
        with _decoding(file):
            head = stream.read(544)
        shape, expected = _nifti_claim(file, head)
        require_bounded(path, case_id, shape)
        with _decoding(file):
            got = len(head) + _drain(stream) if is_compressed else file.n_bytes
    file.hold(got, expected)


def require_whole_metaimage(path: Path, case_id: str) -> None:
    """Header complete, size bounded, every voxel there, zlib checksum right; .mhd with its data file too."""
    file = _File(path, case_id, require_readable(path, case_id))
    with path.open("rb") as raw:
        head = raw.read(1 << 16)
    fields, start = _meta_header(file, head)
    shape, expected = _meta_claim(file, fields)
    require_bounded(path, case_id, shape)
    if fields["ElementDataFile"] != "LOCAL":
        file, start = _meta_data_file(file, fields["ElementDataFile"]), 0
    got = file.n_bytes - start
    if fields.get("CompressedData", "False").lower() == "true":
        with file.path.open("rb") as raw, _decoding(file):
            raw.seek(start)
            got = _inflate(raw)
    file.hold(got, expected)


def require_bounded_nrrd(path: Path, case_id: str) -> None:
    """Magic there and size bounded; that the data are whole is checked by the decoder itself."""
    file = _File(path, case_id, require_readable(path, case_id))
    with path.open("rb") as raw:
        head = raw.read(1 << 16)
    sizes = re.search(rb"^sizes:([ \t\d]+)\r?$", head, re.MULTILINE)
    if not head.startswith(b"NRRD") or sizes is None:
        raise file.unreadable("is not an NRRD file")
    require_bounded(path, case_id, tuple(int(n) for n in sizes[1].split()))


def _neighbours(path: Path) -> list[str]:
    try:
        return [p.name for p in path.parent.iterdir()]
    except OSError:
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


def _drain(stream: BinaryIO) -> int:
    """Bytes from here to the end; reading them is what checks a gzip file."""
    n_bytes = 0
    while block := stream.read(_BLOCK):
        n_bytes += len(block)
    return n_bytes


def _inflate(raw: BinaryIO) -> int:
    """Bytes that a zlib or gzip stream unpacks to, checksum included. Raises EOFError, zlib.error."""
    unpacker, n_bytes = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32), 0
    while block := raw.read(_BLOCK):
        while block:
            n_bytes += len(unpacker.decompress(block, _BLOCK))
            block = unpacker.unconsumed_tail
    if not unpacker.eof:
        raise EOFError
    return n_bytes


def _nifti_claim(file: _File, head: bytes) -> tuple[tuple[int, ...], int]:
    """Shape and the least size in bytes, unpacked, that a NIfTI-1 or -2 header claims."""
    not_nifti = file.unreadable("is not a NIfTI file")
    if len(head) < 352:
        raise not_nifti
    order = "<" if head[:4] in (_NIFTI_1, _NIFTI_2) else ">"
    (version,) = struct.unpack(order + "i", head[:4])
    if version == 348 and head[344:347] in (b"n+1", b"ni1"):
        dims, (bits,), spacing, (start,) = _unpack(order, head, ("8h", 40), ("h", 72), ("8f", 76), ("f", 108))
    elif version == 540 and len(head) >= 540:
        dims, (bits,), spacing, (start,) = _unpack(
            order, head, ("8q", 16), ("h", 14), ("8d", 104), ("q", 168)
        )
    else:
        raise not_nifti
    n_axes, used = dims[0], dims[1 : dims[0] + 1]
    if not 1 <= n_axes <= 7 or min(used) < 1 or not math.isfinite(start):
        raise file.unreadable("has a damaged header: its size makes no sense", _COPY_AGAIN)
    if not all(math.isfinite(s) and s != 0 for s in spacing[1 : min(n_axes, 3) + 1]):
        raise file.unreadable(
            "claims a voxel spacing of zero or NaN", "Export it again with its true spacing."
        )
    return used, max(348, int(start)) + math.prod(used) * bits // 8


def _unpack(order: str, head: bytes, *fields: tuple[str, int]) -> tuple[tuple[Any, ...], ...]:
    return tuple(struct.unpack_from(order + form, head, at) for form, at in fields)


def _meta_header(file: _File, head: bytes) -> tuple[dict[str, str], int]:
    """Fields of a MetaImage header and where the voxels begin in the same file."""
    match = re.search(rb"^ElementDataFile\s*=\s*([^\r\n]+)\r?\n?", head, re.MULTILINE)
    if match is None:
        raise file.unreadable("is not a MetaImage file")
    text = head[: match.end()].decode("latin-1")
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}, match.end()


def _meta_claim(file: _File, fields: dict[str, str]) -> tuple[tuple[int, ...], int]:
    """Shape and size in bytes of the voxels that a MetaImage header claims."""
    try:
        shape = tuple(int(n) for n in fields["DimSize"].split())
        each = _META_BYTES[fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")]
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        is_sound = len(shape) == int(fields["NDims"]) and min(*shape, channels) >= 1
    except (KeyError, ValueError, TypeError):
        is_sound = False
    if not is_sound:
        raise file.unreadable("has a damaged header: its size or voxel type makes no sense", _COPY_AGAIN)
    return shape, math.prod(shape) * each * channels


def _meta_data_file(file: _File, name: str) -> _File:
    """The one file beside a .mhd that holds its voxels."""
    if name.split()[0] == "LIST" or "%" in name:
        raise file.unreadable("is spread over several data files", "Save it as one .mha or .nii.gz file.")
    beside = file.path.parent / name
    return _File(beside, file.case_id, require_readable(beside, file.case_id))
