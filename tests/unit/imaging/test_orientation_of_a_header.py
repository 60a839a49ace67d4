"""Where left is: told by a NIfTI header once, twice alike, twice otherwise, or not at all."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medseg_core.imaging.orientation import orientation_doubt

QFORM, SFORM = 252, 254  # places of the codes
QFAC, ROW = 76, 280


def written(
    folder: Path, direction: tuple[int, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1), name: str = "a.nii"
) -> Path:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.float32))
    image.SetDirection([float(n) for n in direction])
    sitk.WriteImage(image, str(folder / name))
    return folder / name


def changed(path: Path, **fields: tuple[int, str, float]) -> Path:
    data = bytearray(path.read_bytes())
    for place, form, value in fields.values():
        struct.pack_into(f"<{form}", data, place, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "direction",
    [
        (1, 0, 0, 0, 1, 0, 0, 0, 1),
        (-1, 0, 0, 0, 1, 0, 0, 0, 1),  # left-handed
        (0, 0, 1, 1, 0, 0, 0, 1, 0),
        (0, -1, 0, 1, 0, 0, 0, 0, 1),
        (0, 0, -1, 0, 1, 0, 1, 0, 0),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_a_writer_says_twice_alike_is_believed(
    tmp_path: Path, direction: tuple[int, ...], name: str
) -> None:
    assert orientation_doubt(written(tmp_path, direction, name)) is None


@pytest.mark.parametrize(("code", "other"), [(QFORM, SFORM), (SFORM, QFORM)])
def test_one_form_is_enough_and_none_is_not(tmp_path: Path, code: int, other: int) -> None:
    path = changed(written(tmp_path), one=(code, "h", 0))
    assert orientation_doubt(path) is None
    doubt = orientation_doubt(changed(path, other=(other, "h", 0)))
    assert doubt is not None
    assert "neither sform nor qform" in doubt


def test_forms_that_disagree_on_a_side_are_told_and_small_turns_are_not(tmp_path: Path) -> None:
    path = changed(written(tmp_path), turn=(ROW + 4, "f", 0.2))
    assert orientation_doubt(path) is None
    mirrored = changed(path, left=(ROW, "f", 1.0))  # LPS 1 is RAS -1
    assert orientation_doubt(mirrored) == (
        "its sform says that axes lead right, posterior, superior, its qform left, posterior, superior"
    )


def test_a_compressed_file_and_one_of_two_axes(tmp_path: Path) -> None:
    path = changed(written(tmp_path), q=(QFORM, "h", 0), s=(SFORM, "h", 0))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert orientation_doubt(tmp_path / "b.nii.gz") is not None
    assert orientation_doubt(changed(path, dims=(40, "h", 2))) is None
