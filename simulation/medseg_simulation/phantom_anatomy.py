"""Procedural anatomy: a trunk with an organ, lesions inside it, and neighbours that look like either.

Everything is a smooth shape in mm around the centre of the field of view (LPS axes), so that any scanner can
sample it on a grid of its own, in two dimensions or three.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Tissue = Literal[
    "fat", "muscle", "viscera", "bone", "marrow", "vessel", "gland", "cyst", "gas", "organ", "lesion"
]
Voxels = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Vector = tuple[float, float, float]
Range = tuple[float | int, float | int]

LABELS = {"organ": 1, "lesion": 2}
LESIONS = (0.06, 0.44, 0.3, 0.2)  # chance of 0, 1, 2 and 3 lesions
ENDLESS = float("inf")  # radius of a tube along its axis


@dataclass(frozen=True)
class Waves:
    """A smooth random function of position, about -1.5 to 1.5: a few plane waves."""

    per_mm: npt.NDArray[np.float32]  # (wave, 3), radians a millimetre
    phases: npt.NDArray[np.float32]  # (wave,)

    def at(self, points: Voxels) -> Voxels:
        """Values at `points` (axis, ...) in mm."""
        total = np.zeros(points.shape[1:], np.float32)
        for wave, phase in zip(self.per_mm, self.phases, strict=True):
            angle = sum((k * p for k, p in zip(wave, points, strict=False)), start=phase)
            total += np.cos(angle)
        return total * np.float32(np.sqrt(2 / len(self.phases)))


@dataclass(frozen=True)
class Shape:
    """An ellipsoid of one tissue, or a tube where a radius is endless, with a wavy surface."""

    tissue: Tissue
    centre_mm: Vector
    radii_mm: Vector
    roughness: float = 0.0  # of the radius, one standard deviation
    waves: Waves | None = None

    def depth_mm(self, points: Voxels) -> Voxels:
        """Approximate distance from the surface at `points` (axis, ...) in mm, positive inside."""
        axes = zip(points, self.centre_mm, self.radii_mm, strict=False)  # two dimensions leave the third out
        radius = np.sqrt(sum(((p - np.float32(c)) / np.float32(r)) ** 2 for p, c, r in axes if r != ENDLESS))
        if self.waves is not None:
            radius = radius * (1 + np.float32(self.roughness) * self.waves.at(points))
        scale = min(self.radii_mm[: len(points)])
        return np.asarray((1 - radius) * np.float32(scale), np.float32)


@dataclass(frozen=True)
class Anatomy:
    """One patient: shapes from the skin inwards, later ones in front; lesions only show inside the organ."""

    surroundings: tuple[Shape, ...]
    organ: Shape
    lesions: tuple[Shape, ...]
    posture: tuple[Waves, ...]  # displacement along each of the three axes, in units of 1.5 mm
    off_centre_mm: Vector  # of the patient in the scanner


def draw_waves(generator: np.random.Generator, lengths_mm: Range) -> Waves:
    """A random smooth function made of waves of lengths within a range."""
    directions = generator.normal(size=(5, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = generator.uniform(*lengths_mm, size=(5, 1))
    phases = generator.uniform(0, 2 * np.pi, size=5)
    return Waves((2 * np.pi / lengths * directions).astype(np.float32), phases.astype(np.float32))


def draw_anatomy(generator: np.random.Generator) -> Anatomy:
    """A random patient, in three dimensions; a two-dimensional image leaves the third of every shape out."""
    width, depth = generator.uniform(37, 43), generator.uniform(30, 35)
    organ_at = _within(generator, (-18, -6), (-10, 3), (-8, 8))
    organ_radii = _within(generator, (14, 20), (12, 17), (15, 22))
    organ = Shape("organ", organ_at, organ_radii, 0.09, draw_waves(generator, (28, 60)))
    return Anatomy(
        surroundings=(*_wall(width, depth), *_bowel(generator), *_spine(generator), *_neighbours(generator)),
        organ=organ,
        lesions=tuple(_lesion(organ, generator) for _ in range(generator.choice(len(LESIONS), p=LESIONS))),
        posture=tuple(draw_waves(generator, (60, 140)) for _ in range(3)),
        off_centre_mm=_within(generator, (-8, 8), (-6, 6), (-10, 10)),
    )


def sample(
    anatomy: Anatomy, points: Voxels, brightness: Mapping[Tissue, float], edge_mm: float
) -> tuple[Voxels, Labels]:
    """Image and label map of a patient at `points` (axis, ...) in mm; edges of the image are `edge_mm` wide."""
    axes = zip(points, anatomy.posture, anatomy.off_centre_mm, strict=False)
    moved = np.stack([p + 1.5 * waves.at(points) - np.float32(offset) for p, waves, offset in axes])
    image = np.zeros(points.shape[1:], np.float32)
    for shape in anatomy.surroundings:
        _paint(image, _share(shape.depth_mm(moved), edge_mm), brightness[shape.tissue])
    in_organ = anatomy.organ.depth_mm(moved)
    _paint(image, _share(in_organ, edge_mm), brightness["organ"])
    labels = np.where(in_organ > 0, LABELS["organ"], 0).astype(np.uint8)
    for lesion in anatomy.lesions:
        in_lesion = np.minimum(lesion.depth_mm(moved), in_organ)
        _paint(image, _share(in_lesion, edge_mm), brightness["lesion"])
        labels[in_lesion > 0] = LABELS["lesion"]
    return image, labels


def _share(depth_mm: Voxels, edge_mm: float) -> Voxels:
    """The part of each voxel that a shape fills."""
    return np.asarray(np.clip(0.5 + depth_mm / np.float32(edge_mm), 0, 1), np.float32)


def _paint(image: Voxels, share: Voxels, brightness: float) -> None:
    """Put a tissue in front of what is there, in place."""
    image += share * (np.float32(brightness) - image)


def _wall(width_mm: float, depth_mm: float) -> Sequence[Shape]:
    """Skin fat, muscle and the cavity within."""
    rings: tuple[tuple[Tissue, float], ...] = (("fat", 0.0), ("muscle", 4.0), ("viscera", 8.0))
    return [Shape(t, (0.0, 0.0, 0.0), (width_mm - inward, depth_mm - inward, ENDLESS)) for t, inward in rings]


def _bowel(generator: np.random.Generator) -> Sequence[Shape]:
    """Loops with more or less fat between them, anywhere in the cavity."""
    tissues: Sequence[Tissue] = ("fat", "muscle", "gland", "muscle", "fat", "gland", "muscle", "fat")
    return [
        Shape(
            tissue,
            _within(generator, (-22, 22), (-18, 18), (-40, 40)),
            _within(generator, (4, 9), (3, 6), (4, 14)),
        )
        for tissue in tissues
    ]


def _spine(generator: np.random.Generator) -> Sequence[Shape]:
    """A vertebra with its marrow and the two great vessels in front of it."""
    back = generator.uniform(17, 20)
    radius = generator.uniform(7, 9)
    vessels = [
        Shape("vessel", (side * generator.uniform(4, 7), back - radius - 3, 0.0), (3.0, 3.0, ENDLESS))
        for side in (-1, 1)
    ]
    bone = Shape("bone", (0.0, back, 0.0), (radius, radius - 1, ENDLESS))
    marrow = Shape("marrow", (0.0, back, 0.0), (radius - 2, radius - 3, ENDLESS))
    return [bone, marrow, *vessels]


def _neighbours(generator: np.random.Generator) -> Sequence[Shape]:
    """A gland like the organ on the other side, cysts like lesions, and gas, all outside the organ."""
    at, radii = _within(generator, (17, 21), (-2, 6), (-6, 6)), _within(generator, (7, 10), (9, 12), (10, 16))
    gland = Shape("gland", at, radii, 0.08, draw_waves(generator, (25, 50)))
    return [gland, *(_bubble(generator) for _ in range(generator.integers(3, 6)))]


def _bubble(generator: np.random.Generator) -> Shape:
    """A cyst, or sometimes gas, in front of the gland."""
    radii = _within(generator, (2.5, 6), (2, 5), (2.5, 7))
    tissue: Tissue = "gas" if generator.random() < 1 / 3 else "cyst"
    return Shape(tissue, _within(generator, (2, 22), (-20, -8), (-16, 16)), radii)


def _within(generator: np.random.Generator, *ranges: Range) -> Vector:
    """A random vector, uniform in a range for each of the three axes."""
    i, j, k = (generator.uniform(low, high) for low, high in ranges)
    return i, j, k


def _lesion(organ: Shape, generator: np.random.Generator) -> Shape:
    """A wavy ball with its centre well inside the organ."""
    direction = generator.normal(size=3)
    offset = direction / np.linalg.norm(direction) * generator.uniform(0.1, 0.6)
    i, j, k = (c + o * r for c, o, r in zip(organ.centre_mm, offset.tolist(), organ.radii_mm, strict=True))
    radius = generator.uniform(5.5, 9)
    radii = _within(generator, *[(0.8 * radius, 1.2 * radius)] * 3)
    return Shape("lesion", (i, j, k), radii, 0.12, draw_waves(generator, (12, 24)))
