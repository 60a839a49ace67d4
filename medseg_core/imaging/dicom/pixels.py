"""Stored pixels of frames, one file in memory at a time; compressed ones by pydicom's decoders, checked before.

A decoder allocates what the compressed bytes claim, whatever the header says, so both must claim the same.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from medseg_core.dicom_errors import PixelDataError, UnsupportedDicomError
from medseg_core.imaging.dicom.decoding_process import DecodingProcess, Stored, decoded
from medseg_core.imaging.dicom.frames import Frame
from medseg_core.imaging.dicom.headers import count, decoding, number, read_whole

_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start-of-frame markers; JPEG-LS has 0xF7
_UNDECODABLE = "its pixels cannot be decoded as its header says"


def read_frames(frames: Sequence[Frame]) -> Iterator[tuple[int, Stored]]:
    """Place in `frames` and stored values `(row, column)` of each, file by file. Raises DicomError leaves."""
    places = sorted(range(len(frames)), key=lambda n: str(frames[n].path))
    with closing(DecodingProcess()) as decoder:
        for path, group in groupby(places, key=lambda n: frames[n].path):
            in_file = {(frames[n].number or 1) - 1: n for n in group}
            for index, stored in _stored(path, sorted(in_file), decoder):
                yield in_file[index], stored


def stored_frames(path: Path, n: int) -> Iterator[tuple[int, Stored]]:
    """0-based number and stored values `(row, column)` of each of a file's `n` frames. Raises DicomError leaves."""
    with closing(DecodingProcess()) as decoder:
        yield from _stored(path, range(n), decoder)


def _stored(path: Path, indices: Sequence[int], decoder: DecodingProcess) -> Iterator[tuple[int, Stored]]:
    dataset = read_whole(path)
    expected = (count(dataset, "Rows", path), count(dataset, "Columns", path))
    if _require_decodable(dataset, path):
        frames: Iterable[Stored] = decoder.decode(path, indices, _UNDECODABLE)
    elif _is_packed(dataset):
        frames = (_unpacked(dataset.PixelData, index, expected) for index in indices)
    else:
        frames = decoded(dataset, path, indices, _UNDECODABLE)
    for index, stored in zip(indices, frames, strict=True):
        if stored.shape != expected:
            raise PixelDataError(path, "its pixels have another size than its header says")
        yield index, stored


def _is_packed(dataset: Dataset) -> bool:
    """Whether eight pixels are a byte, as in a binary SEG."""
    return bool(dataset.BitsAllocated == 1 and dataset.file_meta.TransferSyntaxUID.is_little_endian)


def _unpacked(pixels: bytes, index: int, shape: tuple[int, int]) -> Stored:
    """One frame of bits, which begins and ends within a byte where its size is no multiple of 8.

    pydicom 3.0.2 cuts such frames short where they reach into one byte more than their size has.
    """
    n_bits = shape[0] * shape[1]
    first = index * n_bits
    held = np.frombuffer(pixels[first // 8 : -(-(first + n_bits) // 8)], np.uint8)
    return np.unpackbits(held, bitorder="little")[first % 8 :][:n_bits].reshape(shape)


def _require_decodable(dataset: Dataset, path: Path) -> bool:
    """Whether pixels are compressed.

    Raises where they are missing, of another length or size than claimed, or compressed in an unknown way.
    """
    if "PixelData" not in dataset:
        raise PixelDataError(path, "it has no pixels")
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    try:
        is_known = syntax.is_transfer_syntax and get_decoder(syntax).is_available
    except (NotImplementedError, ValueError):
        is_known = False
    if not is_known:
        raise UnsupportedDicomError(
            path,
            "its compression (transfer syntax) is not read",
            "Export it uncompressed (Explicit VR Little Endian)",
        )
    with decoding(path, _UNDECODABLE):
        pixels: bytes = dataset.PixelData
    n_frames, size = (
        int(number(dataset, "NumberOfFrames", path) or 1),
        (
            count(dataset, "Columns", path),
            count(dataset, "Rows", path),
        ),
    )
    if syntax.is_encapsulated:
        with decoding(path, _UNDECODABLE):
            claimed = {_claimed_size(frame) for frame in generate_frames(pixels, number_of_frames=n_frames)}
        if claimed - {None, size}:
            raise PixelDataError(path, "its compressed pixels have another size than its header says")
        return True
    bits = n_frames * size[0] * size[1] * count(dataset, "BitsAllocated", path)
    expected = -(-bits // 8)
    if not expected <= len(pixels) <= expected + expected % 2:
        raise PixelDataError(
            path, f"it holds {len(pixels)} bytes of pixels where its header claims {expected}"
        )
    return False


def _claimed_size(frame: bytes) -> tuple[int, int] | None:
    """Columns and rows that a JPEG, JPEG-LS or JPEG 2000 stream claims; None where it does not say (RLE)."""
    if (start := frame.find(b"\xff\x4f\xff\x51", 0, 256)) >= 0:  # JPEG 2000: SOC, SIZ
        right, bottom, left, top = (
            int.from_bytes(frame[at : at + 4]) for at in range(start + 8, start + 24, 4)
        )
        return right - left, bottom - top
    at = 2 if frame.startswith(b"\xff\xd8") else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in _JPEG_SIZES or marker == 0xF7:
            return int.from_bytes(frame[at + 7 : at + 9]), int.from_bytes(frame[at + 5 : at + 7])
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4])
    return None
