"""A loaded case on the task's grid with normalised intensities: what the network sees."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg_core.cohort.reading import Reading
from medseg_core.config import Channel, Task
from medseg_core.imaging.geometry import crop, reorient, resample
from medseg_core.seeding import derive_seed
from medseg_core.types import IGNORE, Case, Geometry, LoadedCase, Volume

PREPROCESSING_VERSION = 2  # part of the cache's key: raise it when the arithmetic below changes
FOREGROUND_SAMPLES = 4096  # voxels kept for each label to centre patches on (nnU-Net keeps up to 10,000)


@dataclass(frozen=True)
class PreprocessedCase:
    """A case on the task's grid. Arrays may be memory-mapped and are read-only."""

    case: Case
    image: npt.NDArray[np.float32]  # (c, i, j[, k]); a missing channel is 0 all over
    label: npt.NDArray[np.uint8]  # (i, j[, k]); all 0 where the case has no label
    foreground: npt.NDArray[np.int32]  # (n, 1 + dims): label, i, j[, k]
    geometry: Geometry  # of the arrays
    original: Geometry  # of the file
    label_voxels: tuple[int, ...]  # of each foreground label, in the file's grid
    reading: Reading | None = None  # None: as the experiment's task says
    folder: Path | None = None  # in the cache, from where another process maps the same arrays

    @property
    def not_annotated(self) -> tuple[int, ...]:
        """Classes that may be where the label is background."""
        return self.reading.task.not_annotated if self.reading else ()

    @property
    def foreground_mm3(self) -> float:
        """Volume of all foreground labels (pixels where the format knows no millimetres)."""
        return float(sum(self.label_voxels)) * float(np.prod(self.original.spacing))


def preprocess(loaded: LoadedCase, task: Task) -> PreprocessedCase:
    """The case oriented, cropped, resampled and normalised, in that order. Deterministic."""
    original = loaded.image.geometry
    truth = loaded.label if loaded.label is not None else np.zeros(original.shape, np.uint8)
    label_voxels = tuple(int(n) for n in np.bincount(truth.ravel(), minlength=256)[1 : task.n_classes])
    image, label = loaded.image, Volume(truth[None].copy(), original)
    if task.spatial_dims == 3:
        image, label = reorient(image, task.orientation), reorient(label, task.orientation)
    if task.foreground_crop:
        box = _foreground_box(image.voxels)
        image, label = crop(image, box), crop(label, box)
    if (spacing := _target_spacing(image.geometry, task)) is not None:
        image, label = resample(image, spacing, is_label=False), resample(label, spacing, is_label=True)
    missing = loaded.case.missing
    voxels = np.stack(
        [
            np.zeros_like(v) if n in missing else normalise(v, task.channels[n])
            for n, v in enumerate(image.voxels)
        ]
    )
    return PreprocessedCase(
        case=loaded.case,
        image=voxels,
        label=label.voxels[0].astype(np.uint8),
        foreground=_foreground_samples(label.voxels[0], loaded.case.case_id),
        geometry=image.geometry,
        original=original,
        label_voxels=label_voxels,
    )


def normalise(voxels: npt.NDArray[np.float32], channel: Channel) -> npt.NDArray[np.float32]:
    """One channel's intensities brought to the network's range.

    `zscore`: mean 0, deviation 1 over the volume. `window`: [low, high] to [-1, 1], clipped. `range`: the 0.5th to
    99.5th percentile to [-1, 1], clipped. CLAHE, where asked for, comes before, and inside the window.
    """
    window = channel.window
    if channel.clahe:
        voxels = _equalise(voxels if window is None else np.clip(voxels, *window))
        window = None if window is None else (0.0, 1.0)  # what equalisation made of it
    if channel.normalisation == "zscore":
        mean, deviation = float(voxels.mean(dtype=np.float64)), float(voxels.std(dtype=np.float64))
        return np.asarray((voxels - mean) / max(deviation, 1e-8), np.float32)
    low, high = window or tuple(float(q) for q in np.percentile(voxels, (0.5, 99.5)))
    scaled = (voxels - low) / max(high - low, 1e-8) * 2 - 1
    return np.asarray(np.clip(scaled, -1, 1), np.float32)


def _equalise(voxels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Contrast-limited adaptive histogram equalisation to [0, 1] (Zuiderveld 1994), by scikit-image."""
    from skimage.exposure import equalize_adapthist  # slow to import and rarely asked for

    low, high = float(voxels.min()), float(voxels.max())
    unit = (voxels.astype(np.float64) - low) / max(high - low, 1e-8)
    return np.asarray(equalize_adapthist(unit), dtype=np.float32)


def _foreground_box(voxels: npt.NDArray[np.float32]) -> tuple[slice, ...]:
    """Smallest box that holds every voxel that is not zero in some channel; the whole where all are zero."""
    occupied = (voxels != 0).any(axis=0)
    box = []
    for axis in range(occupied.ndim):
        others = tuple(a for a in range(occupied.ndim) if a != axis)
        where = np.flatnonzero(occupied.any(axis=others))
        box.append(slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(None))
    return tuple(box)


def _target_spacing(geometry: Geometry, task: Task) -> tuple[float, ...] | None:
    """Spacing to resample to, or None where the grid is right already."""
    if task.longest_side_px is not None:
        factor = max(geometry.shape) / task.longest_side_px
        target: tuple[float, ...] | None = tuple(factor * s for s in geometry.spacing)
    else:
        target = task.spacing_mm if geometry.spacing_mm is not None else None
    if target is None or np.allclose(target, geometry.spacing, rtol=1e-3):
        return None
    return target


def _foreground_samples(label: npt.NDArray[np.uint8], case_id: str) -> npt.NDArray[np.int32]:
    """Up to FOREGROUND_SAMPLES voxels of each label, as rows (label, i, j[, k]); seeded by the case's name."""
    rng = np.random.default_rng(derive_seed(0, site=case_id, purpose="patch"))
    rows = []
    for value in range(1, int(label[label != IGNORE].max(initial=0)) + 1):
        flat = np.flatnonzero(label == value)
        if flat.size > FOREGROUND_SAMPLES:
            flat = np.sort(rng.choice(flat, FOREGROUND_SAMPLES, replace=False))
        voxels = np.column_stack(np.unravel_index(flat, label.shape))
        rows.append(np.column_stack([np.full(len(voxels), value), voxels]))
    return np.concatenate(rows).astype(np.int32) if rows else np.zeros((0, 1 + label.ndim), np.int32)
