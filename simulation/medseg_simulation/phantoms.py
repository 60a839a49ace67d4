"""A phantom data set of hospitals whose scanners differ. In: sizes and a seed. Out: NIfTI files and a manifest.

Each hospital has one scanner and patients of its own, so that a network trained at one of them is visibly worse
at another. Equal settings give equal bytes on one type of processor with equal library versions.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg_core.files import whole_folder, write_atomic
from medseg_core.imaging.io import write_image, write_label
from medseg_core.seeding import derive_seed
from medseg_core.types import Geometry
from medseg_simulation.errors import PhantomSettingsError
from medseg_simulation.phantom_anatomy import LABELS, draw_anatomy
from medseg_simulation.phantom_scanners import scan, scanner_of

COLUMNS = ("case_id", "patient_id", "site", "image", "label", "scanner", "lesion")


@dataclass(frozen=True)
class PhantomSettings:
    """What to make. Raises PhantomSettingsError where a number is out of its range."""

    sites: int = 4
    cases: int = 12  # at each site
    spatial_dims: int = 3
    seed: int = 0
    cases_per_patient: int = 1
    voxel_mm: float | None = None  # finest in-plane size; None: 2 in 3D (about 48 x 48 x 32 voxels), 1 in 2D

    def __post_init__(self) -> None:
        limits = {"sites": 1000, "cases": 10_000, "cases_per_patient": 100}
        for setting, most in limits.items():
            if not 1 <= getattr(self, setting) <= most:
                raise PhantomSettingsError(setting, getattr(self, setting), f"from 1 to {most}")
        if self.spatial_dims not in (2, 3):
            raise PhantomSettingsError("spatial_dims", self.spatial_dims, "2 or 3")
        if self.seed < 0:
            raise PhantomSettingsError("seed", self.seed, "0 or more")
        if not 0.25 <= self.reference_mm <= 8:
            raise PhantomSettingsError("voxel_mm", self.voxel_mm, "from 0.25 to 8")

    @property
    def reference_mm(self) -> float:
        """In-plane voxel size of the first scanner."""
        return {2: 1.0, 3: 2.0}[self.spatial_dims] if self.voxel_mm is None else self.voxel_mm


def write_phantoms(out: Path, settings: PhantomSettings) -> Path:
    """Write a phantom data set into `out`, whole or not at all, and return `out`.

    Labels are 1 organ and 2 lesion; a patient has 0 to 3 lesions. Raises UnusableFolderError if `out` holds anything.
    """
    with whole_folder(out) as folder:
        rows = [
            row for hospital in range(settings.sites) for row in _write_hospital(folder, hospital, settings)
        ]
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([COLUMNS, *rows])
        write_atomic(folder / "manifest.csv", table.getvalue().encode())
    return out


def _write_hospital(folder: Path, hospital: int, settings: PhantomSettings) -> Iterator[tuple[str, ...]]:
    """The cases of one hospital, as rows of the manifest."""
    site = f"hospital-{hospital + 1}"
    seed = derive_seed(settings.seed, site=site, purpose="phantom")
    scanner = scanner_of(hospital, np.random.default_rng(seed))
    spacing_mm = tuple(settings.reference_mm * size for size in scanner.voxel[: settings.spatial_dims])
    for case in range(settings.cases):
        case_id, patient = f"{site}-{case:03d}", case // settings.cases_per_patient
        image, label = f"images/{case_id}.nii.gz", f"labels/{case_id}.nii.gz"
        anatomy = draw_anatomy(np.random.default_rng([seed, 1, patient]))
        voxels, labels = scan(anatomy, scanner, spacing_mm, np.random.default_rng([seed, 2, case]))
        geometry = _centred(voxels.shape, spacing_mm)
        write_image(folder / image, np.rint(voxels).astype(np.int16), geometry)
        write_label(folder / label, labels, geometry)
        lesion = "yes" if (labels == LABELS["lesion"]).any() else "no"
        yield case_id, f"{site}-patient-{patient:03d}", site, image, label, scanner.name, lesion


def _centred(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Geometry:
    """A grid along the axes of the world, with its middle at the origin."""
    origin = tuple(-(n - 1) / 2 * mm for n, mm in zip(shape, spacing_mm, strict=True))
    return Geometry(shape, spacing_mm, origin, tuple(np.eye(len(shape)).ravel().tolist()))
