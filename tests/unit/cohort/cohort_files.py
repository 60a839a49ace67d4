"""Small cohorts on disk for the tests of lists and checks."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from medseg_core.config import Task
from medseg_core.types import Case

SHAPE = (4, 5, 6)
HEADER = "case_id,patient_id,site,image,label"


def make_task(**changes) -> Task:
    settings = {"name": "t", "spatial_dims": 3, "channels": ({"name": "T1"},), "labels": {"a": 1, "b": 2}}
    return Task.model_validate(settings | changes)


def write_array(
    path: Path, array, *, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=None
) -> Path:
    """An array `(i, j, k)` as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.asarray(array).T, isVector=False)
    image.SetSpacing(spacing[: np.ndim(array)])
    image.SetOrigin(origin[: np.ndim(array)])
    image.SetDirection(direction or np.eye(np.ndim(array)).ravel().tolist())
    sitk.WriteImage(image, str(path))
    return path


def make_image(seed: int = 0):
    return np.random.default_rng(seed).normal(100, 10, SHAPE).astype(np.float32)


def make_label():
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3).astype(np.uint8)


def make_case(folder: Path, name: str = "c1", *, image=None, label=None, **geometry) -> Case:
    """A case of one NIfTI image and its label; `geometry` is that of the label alone."""
    image_path = write_array(folder / f"{name}.nii.gz", make_image() if image is None else image)
    label_path = write_array(
        folder / f"{name}_label.nii.gz", make_label() if label is None else label, **geometry
    )
    return Case(name, f"p_{name}", "A", (image_path,), label_path)


def write_manifest(folder: Path, *rows: str, header: str = HEADER, name: str = "manifest.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path
