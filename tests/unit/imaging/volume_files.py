"""Small volumes and files for the tests of reading."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medseg_core.types import Geometry, Volume

IDENTITY_3D = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def make_volume(shape=(4, 5, 6), spacing_mm=(1.0, 1.0, 1.0), *, voxels=None, origin_mm=None, direction=None):
    n = len(shape)
    if voxels is None:
        voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    direction = direction or tuple(np.eye(n).ravel().tolist())
    return Volume(voxels, Geometry(tuple(shape), spacing_mm, origin_mm or (0.0,) * n, direction))


def write_volume(
    path: Path, array, *, spacing=None, origin=None, direction=None, is_vector=False, compress=True
):
    """Writes an array `(i, j, ..[, c])` as SimpleITK does; returns the path."""
    array = np.asarray(array)
    n = array.ndim - is_vector
    image = sitk.GetImageFromArray(
        array.transpose(*range(n - 1, -1, -1), *range(n, array.ndim)), isVector=is_vector
    )
    image.SetSpacing(spacing or (1.0,) * n)
    image.SetOrigin(origin or (0.0,) * n)
    image.SetDirection(direction or np.eye(n).ravel().tolist())
    sitk.WriteImage(image, str(path), compress)
    return path


def ramp(*shape, dtype=np.int16):
    """Every voxel another value: any mistake in the order of axes shows."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def cut(path: Path, share: float = 0.6) -> Path:
    """Shortens a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def spoil(path: Path) -> Path:
    """Changes one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    return path
