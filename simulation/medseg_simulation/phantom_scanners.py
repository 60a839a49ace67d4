"""What a hospital's scanner does to the same anatomy: contrast, receive field, noise, resolution, field of view."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from medseg_simulation.phantom_anatomy import Anatomy, Labels, Tissue, Vector, Voxels, draw_waves, sample

# Brightness in a T1-weighted and in a T2-weighted image of about 1.5 T, relative to the brightest tissue. The
# lesion is darker than the organ in the one and brighter in the other.
BRIGHTNESS: Mapping[Tissue, tuple[float, float]] = {
    "fat": (0.62, 0.36),
    "muscle": (0.30, 0.18),
    "viscera": (0.42, 0.26),
    "bone": (0.10, 0.08),
    "marrow": (0.50, 0.35),
    "vessel": (0.25, 0.15),
    "gland": (0.58, 0.33),
    "cyst": (0.15, 0.95),
    "gas": (0.03, 0.03),
    "organ": (0.90, 0.52),
    "lesion": (0.12, 1.10),
}


@dataclass(frozen=True)
class Scanner:
    """A scanner and its protocol."""

    name: str
    t2_weighting: float  # 0: T1-weighted, 1: T2-weighted
    gamma: float  # of the contrast curve
    full_scale: float  # of the stored numbers
    shading: float  # of the receive field: standard deviation of its logarithm
    noise: float  # standard deviation, of the brightest tissue
    edge_mm: float  # in-plane sharpness
    voxel: Vector  # size of a voxel along i, j, k, in units of the finest in-plane size of the data set
    field_mm: Vector  # field of view along i, j, k


SCANNERS = (
    Scanner(
        name="Aster-15",
        t2_weighting=0.0,
        gamma=1.0,
        full_scale=1000.0,
        shading=0.08,
        noise=0.03,
        edge_mm=1.5,
        voxel=(1.0, 1.0, 1.5),
        field_mm=(96.0, 96.0, 96.0),
    ),
    Scanner(  # thick slices, much shading, and lesions that hardly differ from the organ
        name="Borea-30",
        t2_weighting=0.35,
        gamma=0.7,
        full_scale=4095.0,
        shading=0.30,
        noise=0.03,
        edge_mm=1.5,
        voxel=(0.9, 0.9, 2.0),
        field_mm=(88.0, 80.0, 96.0),
    ),
    Scanner(  # coarse and noisy, hard contrast
        name="Cirro-10",
        t2_weighting=0.1,
        gamma=1.6,
        full_scale=255.0,
        shading=0.20,
        noise=0.05,
        edge_mm=2.5,
        voxel=(1.25, 1.25, 1.25),
        field_mm=(110.0, 100.0, 90.0),
    ),
    Scanner(  # thickest slices
        name="Delta-15",
        t2_weighting=0.25,
        gamma=1.2,
        full_scale=600.0,
        shading=0.12,
        noise=0.04,
        edge_mm=2.0,
        voxel=(1.0, 1.0, 2.5),
        field_mm=(104.0, 92.0, 95.0),
    ),
)


def scanner_of(hospital: int, generator: np.random.Generator) -> Scanner:
    """The scanner of hospital 0, 1, ..; from the fifth on, variants of the first four."""
    model = SCANNERS[hospital % len(SCANNERS)]
    if hospital < len(SCANNERS):
        return model
    return replace(
        model,
        name=f"{model.name}-{hospital // len(SCANNERS) + 1}",
        gamma=model.gamma * generator.uniform(0.8, 1.25),
        shading=model.shading * generator.uniform(0.7, 1.4),
        noise=model.noise * generator.uniform(0.7, 1.4),
    )


def scan(
    anatomy: Anatomy, scanner: Scanner, spacing_mm: tuple[float, ...], generator: np.random.Generator
) -> tuple[Voxels, Labels]:
    """Image (in stored numbers) and labels of a patient on this scanner's grid of `spacing_mm`."""
    points = grid_mm(scanner, spacing_mm)
    image, labels = sample(anatomy, points, _brightness(scanner, generator), scanner.edge_mm)
    image *= 1 + 0.04 * _grain(image.shape, spacing_mm, generator)
    image = _blurred(image, scanner, spacing_mm)
    image = np.clip(image, 0, None) ** np.float32(scanner.gamma)
    image *= receive_field(points, scanner.shading, generator)
    magnitude = with_noise(image, scanner.noise, generator)
    return magnitude * np.float32(scanner.full_scale * generator.uniform(0.85, 1.15)), labels


def receive_field(points: Voxels, shading: float, generator: np.random.Generator) -> Voxels:
    """A smooth factor at `points` (axis, ...) in mm; `shading` is the standard deviation of its logarithm."""
    return np.asarray(np.exp(np.float32(shading) * draw_waves(generator, (110, 200)).at(points)), np.float32)


def with_noise(image: Voxels, deviation: float, generator: np.random.Generator) -> Voxels:
    """The image with Rician noise, as magnitude MR images have it."""
    real, imaginary = deviation * generator.standard_normal((2, *image.shape), dtype=np.float32)
    return np.asarray(np.hypot(image + real, imaginary))


def grid_mm(scanner: Scanner, spacing_mm: tuple[float, ...]) -> Voxels:
    """Centres of the voxels, (axis, i, j[, k]), around the middle of the field of view."""
    axes = [_centres(field, mm) for field, mm in zip(scanner.field_mm, spacing_mm, strict=False)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def _centres(field_mm: float, spacing_mm: float) -> Voxels:
    count = max(1, round(field_mm / spacing_mm))
    return ((np.arange(count) - (count - 1) / 2) * spacing_mm).astype(np.float32)


def _brightness(scanner: Scanner, generator: np.random.Generator) -> dict[Tissue, float]:
    """Brightness of each tissue of one patient: weighted T1 or T2, and 15 % more or less from patient to patient."""
    weight = np.clip(scanner.t2_weighting + generator.uniform(-0.1, 0.1), 0, 1)
    return {
        tissue: float((1 - weight) * t1 + weight * t2) * generator.uniform(0.85, 1.15)
        for tissue, (t1, t2) in BRIGHTNESS.items()
    }


def _grain(shape: tuple[int, ...], spacing_mm: tuple[float, ...], generator: np.random.Generator) -> Voxels:
    """Structure too fine to model, of 2.5 mm size and unit variance."""
    noise = generator.standard_normal(shape, dtype=np.float32)
    smooth = gaussian_filter(noise, [2.5 / mm for mm in spacing_mm])
    return np.asarray(smooth / smooth.std(), np.float32)


def _blurred(image: Voxels, scanner: Scanner, spacing_mm: tuple[float, ...]) -> Voxels:
    """In-plane sharpness of the scanner, and through the plane a slice as thick as its distance to the next."""
    in_plane = [0.5 * scanner.edge_mm / mm for mm in spacing_mm[:2]]
    return np.asarray(gaussian_filter(image, [*in_plane, 0.4][: image.ndim]), np.float32)
