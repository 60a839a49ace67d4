"""A volume moves to another grid: other axes, another spacing, another volume's grid.

Where a format knows no millimetres a pixel of the file counts as 1; after `resample` the spacing is in those
pixels.
"""

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medseg_core.data_errors import GridTooLargeError
from medseg_core.imaging.integrity import MAX_VOXELS
from medseg_core.imaging.itk import from_sitk, to_sitk
from medseg_core.types import Geometry, Volume


def reorient(volume: Volume, code: str) -> Volume:
    """A 3D volume with axes that run towards the three sides of `code` (LPS: left, posterior, superior).

    Axes are swapped and mirrored, voxels never interpolated; oblique volumes stay oblique.
    """
    return from_sitk(sitk.DICOMOrient(to_sitk(volume), code))


def crop(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """The part of a volume in a box of voxels, one slice an axis, where it lies in the world."""
    starts = [part.indices(n)[0] for part, n in zip(box, volume.geometry.shape, strict=True)]
    voxels = volume.voxels[(slice(None), *box)]
    grid, n = volume.geometry, len(starts)
    matrix = np.reshape(grid.direction, (n, n))
    origin = np.asarray(grid.origin_mm) + matrix @ (np.asarray(starts) * grid.spacing)
    return Volume(voxels, Geometry(voxels.shape[1:], grid.spacing_mm, tuple(origin.tolist()), grid.direction))


def resample(volume: Volume, spacing: tuple[float, ...], *, is_label: bool) -> Volume:
    """The volume with exactly this spacing over the same extent, to the nearest voxel; its centre stays.

    Images are interpolated linearly without a low-pass filter before shrinking, as nnU-Net and MONAI do.
    Labels get the class with the largest linear weight: no value is invented, IGNORE is a class like another.
    Raises GridTooLargeError.
    """
    grid = volume.geometry
    extent = np.asarray(grid.shape) * grid.spacing
    shape = np.maximum(1, np.rint(extent / spacing).astype(int))
    if shape.astype(float).prod() > MAX_VOXELS:
        raise GridTooLargeError(shape.tolist(), spacing)
    matrix = np.reshape(grid.direction, (len(shape), -1))
    shift = ((np.asarray(grid.shape) - 1) * grid.spacing - (shape - 1) * np.asarray(spacing)) / 2
    origin = np.asarray(grid.origin_mm) + matrix @ shift
    target = Geometry(tuple(shape.tolist()), tuple(spacing), tuple(origin.tolist()), grid.direction)
    return resample_to(volume, target, is_label=is_label)


def resample_to(volume: Volume, geometry: Geometry, *, is_label: bool) -> Volume:
    """The volume on another grid, interpolated as in `resample`.

    Points more than one voxel outside become background: 0 in labels, the smallest value in images.
    """
    if volume.geometry == geometry:
        return volume
    image = to_sitk(volume)
    margin = [
        1
    ] * image.GetDimension()  # rounding of sizes puts the outermost points up to half a voxel outside
    moved = sitk.Resample(
        sitk.ZeroFluxNeumannPad(image, margin, margin),
        geometry.shape,
        sitk.Transform(),
        sitk.sitkLabelLinear if is_label else sitk.sitkLinear,
        geometry.origin_mm,
        geometry.spacing,
        geometry.direction,
        0.0 if is_label else float(volume.voxels.min()),
    )
    return Volume(from_sitk(moved).voxels, geometry)
