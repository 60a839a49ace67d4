"""Real images as if each site had a scanner of its own: `[simulation.scanner]`.

In: an image as read from its file. Out: the same anatomy on the same grid with another contrast, receive field,
sharpness, noise and scale. What a scanner does is drawn for each site, its noise and field for each case.
"""

import json
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from medseg_core.config import ScannerEffects
from medseg_core.seeding import derive_seed
from medseg_core.types import Volume
from medseg_simulation.phantom_anatomy import Voxels
from medseg_simulation.phantom_scanners import SCANNERS, receive_field, with_noise

ARITHMETIC = 1  # part of the cache's key: raise it when the arithmetic below changes
FIELD_MM = 96.0  # the phantoms': the longest side of an image counts as so long, so that fields look alike
BLUR_VOXELS = 1.0  # largest deviation of the Gaussian along an axis, at strength 1
SCALE = 4.0  # largest factor between stored numbers, up or down; the phantoms' full scales span 16


@dataclass(frozen=True)
class SiteScanner:
    """The scanner of one site; the defaults change nothing."""

    seed: int  # of what differs from case to case
    gamma: float = 1.0
    shading: float = 0.0  # standard deviation of the logarithm of the receive field
    blur_voxels: tuple[float, float, float] = (0.0, 0.0, 0.0)  # along i, j, k
    noise: float = 0.0  # standard deviation, of the range of the image
    scale: float = 1.0

    @property
    def identity(self) -> str:
        """All that decides what it does to an image of a case."""
        return json.dumps([ARITHMETIC, asdict(self)])

    def rescan(self, image: Volume, case_id: str) -> Volume:
        """The image as this scanner shows it; a channel without contrast, such as a missing one, stays."""
        generator = np.random.default_rng(derive_seed(self.seed, site=case_id, purpose="scanner"))
        field = receive_field(_points(image.geometry.shape), self.shading, generator)
        return replace(image, voxels=np.stack([self._channel(v, field, generator) for v in image.voxels]))

    def _channel(self, voxels: Voxels, field: Voxels, generator: np.random.Generator) -> Voxels:
        """One channel `(i, j[, k])`, between its least value and its 99.5th percentile, and back.

        Where the least value is 0 it stays: somebody cut these voxels away, and `foreground_crop` looks for them.
        """
        low, high = np.float32(voxels.min()), np.float32(np.percentile(voxels, 99.5))
        if not low < high:
            return voxels
        shown = ((voxels - low) / (high - low)) ** np.float32(self.gamma) * field
        shown = gaussian_filter(shown, self.blur_voxels[: voxels.ndim])
        shown = with_noise(shown, self.noise, generator) if self.noise else shown
        shown = (shown * (high - low) + low) * self.scale
        return np.asarray(np.where(voxels == 0, 0, shown) if low == 0 else shown, np.float32)


def scanner_at(site: str, settings: ScannerEffects, *, seed: int) -> SiteScanner | None:
    """The scanner of a site, within the range of the phantoms' at strength 1; None where nothing changes."""
    if not settings.strength or not settings.effects:
        return None
    own_seed = derive_seed(seed, site=site, purpose="scanner")
    rng, strength, effects = np.random.default_rng(own_seed), settings.strength, settings.effects
    gammas, shadings, noises = zip(*((s.gamma, s.shading, s.noise) for s in SCANNERS), strict=True)
    drawn = SiteScanner(  # all of it, so that an effect stays what it is when others are left out
        seed=own_seed,
        gamma=float(np.exp(strength * rng.uniform(np.log(min(gammas)), np.log(max(gammas))))),
        shading=strength * rng.uniform(min(shadings), max(shadings)),
        noise=strength * rng.uniform(0, max(noises)),
        blur_voxels=tuple((strength * rng.uniform(0, BLUR_VOXELS, size=3)).tolist()),
        scale=float(np.exp(strength * rng.uniform(-np.log(SCALE), np.log(SCALE)))),
    )
    nothing = SiteScanner(own_seed)
    return SiteScanner(
        own_seed,
        gamma=drawn.gamma if "gamma" in effects else nothing.gamma,
        shading=drawn.shading if "bias_field" in effects else nothing.shading,
        blur_voxels=drawn.blur_voxels if "resolution" in effects else nothing.blur_voxels,
        noise=drawn.noise if "noise" in effects else nothing.noise,
        scale=drawn.scale if "intensity_scale" in effects else nothing.scale,
    )


def _points(shape: tuple[int, ...]) -> Voxels:
    """Places of the voxels, (axis, i, j[, k]), around the middle of a field of FIELD_MM along the longest side."""
    step = FIELD_MM / max(shape)
    axes = [((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"))
