"""One image or label file becomes a Volume; a label map becomes a file.

Axes are `(i, j, k)`, the fastest of the file first: columns, rows, slices.
"""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813

from medseg_core.data_errors import (
    ChannelCountError,
    ColourLabelError,
    DimensionError,
    NonIntegerLabelError,
    UnnamedChannelsError,
    UnsupportedFormatError,
)
from medseg_core.errors import UnusableFolderError
from medseg_core.imaging import integrity
from medseg_core.imaging.itk import decode, read_grid, to_sitk
from medseg_core.imaging.pictures import PICTURE_SUFFIXES, read_picture
from medseg_core.types import Geometry, Volume

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
IMAGE_SUFFIXES = (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES)
_ROUNDING = 1e-3  # label files whose header scales voxels give 2.9999998 for 3


def file_suffix(path: Path) -> str:
    """The known ending of a file name, `.nii.gz` as one; else pathlib's."""
    return next((s for s in IMAGE_SUFFIXES if path.name.lower().endswith(s)), path.suffix)


def read_image(path: Path, *, spatial_dims: int | None, channels: int | None, case_id: str) -> Volume:
    """An image as float32 `(c, i, j[, k])` with exactly `channels` channels; None takes both counts as found.

    One axis more than space has is read as channels where it is `channels` long. A colour file whose channels
    agree counts as one channel. Raises CaseError leaves; NaN and constant images are the caller's to refuse.
    """
    volume = _fit_axes(
        _read(path, case_id, is_label=False), path, case_id, spatial_dims=spatial_dims, channels=channels
    )
    n_found = len(volume.voxels)
    if channels == 1 and n_found > 1 and _channels_agree(volume.voxels):
        volume = replace(volume, voxels=volume.voxels[:1])
    elif channels is not None and n_found != channels:
        raise ChannelCountError(case_id, path, n_found, channels)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        return replace(volume, voxels=volume.voxels.astype(np.float32, copy=False))


def read_label(path: Path, *, spatial_dims: int | None, case_id: str) -> Volume:
    """A label file's own values as integers `(1, i, j[, k])`. Raises CaseError leaves.

    Floating-point files are accepted where every value is a whole number, colour files where channels agree.
    """
    volume = _fit_axes(
        _read(path, case_id, is_label=True), path, case_id, spatial_dims=spatial_dims, channels=1
    )
    if not _channels_agree(volume.voxels):
        raise ColourLabelError(case_id, path)
    voxels = volume.voxels[:1]
    if not np.issubdtype(voxels.dtype, np.integer):
        voxels = _whole_numbers(voxels, path, case_id)
    return replace(volume, voxels=voxels)


def with_slice_axis(geometry: Geometry, path: Path) -> Geometry:
    """The grid of a single slice as its volume file has it, with the place of the slice in the world.

    A grid that reading took no axis from is returned as it is.
    """
    if len(geometry.shape) == 3 or file_suffix(path) not in VOLUME_SUFFIXES:
        return geometry
    whole = read_grid(path)
    in_plane = tuple(n for n in whole.shape if n > 1)
    is_slice = len(whole.shape) == 3 and in_plane == tuple(n for n in geometry.shape if n > 1)
    return whole if is_slice else geometry


def write_label(path: Path, labels: npt.NDArray[np.uint8], geometry: Geometry) -> None:
    """A label map `(i, j[, k])` on its grid, whole or not at all; the ending chooses the format.

    Raises UnusableFolderError.
    """
    write_image(path, labels, geometry)


def write_image(path: Path, voxels: npt.NDArray[np.generic], geometry: Geometry) -> None:
    """One channel `(i, j[, k])` on its grid, in its own number type, whole or not at all; as `write_label`."""
    image = to_sitk(Volume(voxels[None], geometry))
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(beside), useCompression=True)
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        reason = (
            error.strerror if isinstance(error, OSError) else None
        ) or f"{path.name} could not be written"
        raise UnusableFolderError(path.parent, reason) from None


def _read(path: Path, case_id: str, *, is_label: bool) -> Volume:
    """Any supported file as `(c, i, j, ...)` in the file's own type and with all of its axes."""
    match suffix := file_suffix(path):
        case ".nii.gz" | ".nii":
            integrity.require_whole_nifti(path, case_id)
            return decode(path, case_id, "NiftiImageIO")
        case ".mha" | ".mhd":
            integrity.require_whole_metaimage(path, case_id)
            return decode(path, case_id, "MetaImageIO")
        case ".nrrd" | ".nhdr":
            integrity.require_whole_nrrd(path, case_id)
            return decode(path, case_id, "NrrdImageIO")
        case _ if suffix in PICTURE_SUFFIXES:
            integrity.require_readable(path, case_id)
            return read_picture(path, case_id, is_label=is_label)
    integrity.require_readable(path, case_id)
    raise UnsupportedFormatError(case_id, path, IMAGE_SUFFIXES)


def _fit_axes(
    volume: Volume, path: Path, case_id: str, *, spatial_dims: int | None, channels: int | None
) -> Volume:
    """Exactly `spatial_dims` axes: single slices dropped, a last axis of channels moved first."""
    found = volume.geometry.shape
    dims = spatial_dims or min(len(found), 3)
    for axis in reversed(range(dims, len(volume.geometry.shape))):
        if volume.geometry.shape[axis] == 1:
            volume = _drop_axis(volume, axis)
    if dims == 2 and len(volume.geometry.shape) == 3 and 1 in volume.geometry.shape and len(found) == 3:
        volume = _drop_axis(volume, volume.geometry.shape.index(1))
    shape = volume.geometry.shape
    if len(shape) == dims:
        return volume
    if len(shape) == dims + 1 and len(volume.voxels) == 1 and channels in (None, shape[-1]) and shape[-1] > 1:
        channels_first = np.moveaxis(volume.voxels[0], -1, 0)
        return Volume(channels_first, _drop_axis(volume, dims).geometry)
    if len(shape) == dims + 1 and dims == 3:
        raise UnnamedChannelsError(case_id, path, found, channels or 1)
    raise DimensionError(case_id, path, found, dims)


def _drop_axis(volume: Volume, axis: int) -> Volume:
    """The volume without one spatial axis, at its first slice."""
    grid, n = volume.geometry, len(volume.geometry.shape)
    rest = [a for a in range(n) if a != axis]
    matrix = np.reshape(grid.direction, (n, n))[np.ix_(rest, rest)]
    if (
        abs(np.linalg.det(matrix)) < 0.5
    ):  # a slice across the dropped world axis has no 2D direction of its own
        matrix = np.eye(n - 1)
    voxels = np.take(volume.voxels, 0, axis=axis + 1)
    return Volume(
        voxels,
        Geometry(
            tuple(grid.shape[a] for a in rest),
            tuple(grid.spacing_mm[a] for a in rest) if grid.spacing_mm else None,
            tuple(grid.origin_mm[a] for a in rest),
            tuple(matrix.ravel().tolist()),
        ),
    )


def _channels_agree(voxels: npt.NDArray[np.generic]) -> bool:
    return all(np.array_equal(voxels[0], channel) for channel in voxels[1:])


def _whole_numbers(voxels: npt.NDArray[np.generic], path: Path, case_id: str) -> npt.NDArray[np.int32]:
    """Floating-point label values as integers. Raises NonIntegerLabelError with one offending value."""
    values = voxels.astype(np.float64)
    nearest = np.rint(values)
    with np.errstate(invalid="ignore"):
        is_whole = (np.abs(values - nearest) < _ROUNDING) & (np.abs(values) < 2**31)
    if not is_whole.all():
        raise NonIntegerLabelError(case_id, path, float(values[~is_whole][0]))
    return nearest.astype(np.int32)
