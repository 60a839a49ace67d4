"""Volumes as SimpleITK sees them, and back. Its arrays are `(k, j, i[, c])`, ours `(c, i, j[, k])`."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medseg_core.data_errors import UnreadableFileError
from medseg_core.types import Geometry, Volume

sitk.ProcessObject.GlobalWarningDisplayOff()  # faults are told in our words, not in ITK's on the terminal


def to_sitk(volume: Volume) -> sitk.Image:
    """Several channels become a vector image; a spacing that is not known counts as 1."""
    axes = range(volume.voxels.ndim - 1, 0, -1)
    is_vector = len(volume.voxels) > 1
    array = volume.voxels.transpose(*axes, 0) if is_vector else volume.voxels[0].T
    image = sitk.GetImageFromArray(array, isVector=is_vector)
    image.SetSpacing(volume.geometry.spacing)
    image.SetOrigin(volume.geometry.origin_mm)
    image.SetDirection(volume.geometry.direction)
    return image


def from_sitk(image: sitk.Image) -> Volume:
    """A Volume with its own copy of the voxels, in memory as in the file (i fastest): turning them costs seconds."""
    array = sitk.GetArrayViewFromImage(image)  # (k, j, i[, c])
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., None]
    voxels = np.array(np.moveaxis(array, -1, 0), order="C")  # (c, k, j, i)
    geometry = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Volume(voxels.transpose(0, *range(voxels.ndim - 1, 0, -1)), geometry)


def read_grid(path: Path) -> Geometry:
    """Grid of a volume file, all of its axes, from its header alone."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return Geometry(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def decode(path: Path, case_id: str, decoder: str) -> Volume:
    """A file by one of ITK's decoders, in its own type, with all of its axes. Raises UnreadableFileError."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(decoder)  # the one that the name promises: guessing is slower and talks to the terminal
    reader.SetFileName(str(path))
    try:
        volume = from_sitk(reader.Execute())
    except RuntimeError as error:
        if "orthonormal" in str(error):
            remedy = "Resample it to a grid with right angles, or correct its header (sform and qform)."
            raise UnreadableFileError(
                case_id, path, "has axes that are not at right angles", remedy
            ) from None
        reason = f"cannot be decoded as {decoder.removesuffix('ImageIO')}"
        raise UnreadableFileError(case_id, path, reason) from None
    if np.iscomplexobj(volume.voxels):
        raise UnreadableFileError(case_id, path, "holds complex numbers", "Save their magnitude.")
    return volume
