"""What a model is for, as learned with it: images like its training images, and how unsure it was on validation.

A case is held where its modality, spacing or intensities are not those of the training cases, and flagged where the
model is less sure of it than it was of validation cases. What is learned are means and standard deviations over the
cases of a site (`Moments`), never a value of one case: they are all that leaves a hospital, and join exactly.

| feature | of a case | learned on |
| --- | --- | --- |
| `spacing/AXIS` | ln of the spacing in mm along left-right, front-back, head-foot (2D: as stored) | training |
| `p5/CHANNEL`, `p50/CHANNEL`, `p95/CHANNEL` | percentiles of intensities as the network sees them | training |
| `uncertainty` | the case's score (uncertainty.py) | validation |
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydantic import Field
from torch import nn

from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment, Section, Task
from medseg_core.learning.uncertainty import uncertainty_of
from medseg_core.types import Geometry
from medseg_core.wire.header import SCOPE

UNCERTAINTY = "uncertainty"
PERCENTILES = (5, 50, 95)
RANGE_SDS = 4.0  # Chebyshev: whatever their distribution, at most 1 in 16 training cases lies further out
THRESHOLD_SDS = 2.0  # about 1 in 40 cases like those of validation, were their scores normal
LEAST_SPACING = math.log(1.25)  # a site whose scans are all alike would hold what is a quarter off
LEAST_INTENSITY = 0.25  # of the network's range: an eighth of a window, a quarter of a deviation
LEAST_INSIDE = 0.001  # of the voxels: a small lesion's worth; a scan in other units has fewer in any window
FEWEST_CASES = 5  # fewer say nothing of a deviation
MOST_CHANNELS = 16  # whose intensities may be told
MOST = 1e4  # of any feature: a percentile of z-scores reaches the square root of the number of voxels
_VOXELS = 1_000_000  # sampled for a percentile
_STATISTICS = ("n", "mean", "sd")
_WORLD_AXES = ("left-right", "front-back", "head-foot")


class Moments(Section):
    """Number, mean and standard deviation (of these, not of a population) of a feature over cases."""

    n: int = Field(ge=1)
    mean: float = Field(ge=-MOST, le=MOST)
    sd: float = Field(ge=0, le=MOST)


class Scope(Section):
    """What was learned, joined over the sites that told it: part of `provenance.json`."""

    moments: dict[str, Moments]
    sites: dict[str, int]  # how many sites told of `training` and of `validation`

    @property
    def threshold(self) -> float | None:
        """The score above which a case is flagged: mean + 2 deviations on validation; None where it was not learned."""
        found = self.moments.get(UNCERTAINTY)
        return found.mean + THRESHOLD_SDS * found.sd if found and found.n >= FEWEST_CASES else None

    def range_of(self, feature: str) -> tuple[float, float] | None:
        """Lowest and highest value of a feature that is not held; None where too few cases tell."""
        found = self.moments.get(feature)
        if found is None or found.n < FEWEST_CASES:
            return None
        least = LEAST_SPACING if feature.startswith("spacing/") else LEAST_INTENSITY
        margin = max(RANGE_SDS * found.sd, least)
        return found.mean - margin, found.mean + margin


def _features(n_axes: int, n_channels: int) -> tuple[str, ...]:
    percentiles = (f"p{percent}/{channel}" for percent in PERCENTILES for channel in range(n_channels))
    return (UNCERTAINTY, *(f"spacing/{axis}" for axis in range(n_axes)), *percentiles)


SCOPE_FIGURES = {
    f"{SCOPE}{feature}/{statistic}" for feature in _features(3, MOST_CHANNELS) for statistic in _STATISTICS
}  # every figure that a site may tell of a model's scope


def features_of(case: PreprocessedCase) -> dict[str, float]:
    """Spacing and intensities of one case; nothing of channels that it has not."""
    found = {f"spacing/{axis}": math.log(mm) for axis, mm in enumerate(world_spacing(case.original))}
    for channel, voxels in enumerate(case.image[:MOST_CHANNELS]):
        if channel not in case.case.missing:
            step = max(1, voxels.size // _VOXELS)
            values = np.percentile(voxels.ravel(order="K")[::step], PERCENTILES)
            found |= {f"p{p}/{channel}": float(v) for p, v in zip(PERCENTILES, values, strict=True)}
    return found


def world_spacing(geometry: Geometry) -> tuple[float, ...]:
    """Spacing in mm along the axes of the world, of the grid's axis that is nearest to each; none without mm."""
    if geometry.spacing_mm is None or len(geometry.shape) == 2:
        return geometry.spacing_mm or ()
    matrix = np.abs(np.reshape(geometry.direction, (3, 3)))
    return tuple(geometry.spacing_mm[int(axis)] for axis in matrix.argmax(axis=1))


def moments_of_training(cases: Sequence[PreprocessedCase], *, fewest_patients: int = 1) -> dict[str, Moments]:
    """Moments of spacing and intensities over cases; nothing of a channel that fewer patients have."""
    values: dict[str, list[float]] = defaultdict(list)
    patients: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        for feature, value in features_of(case).items():
            values[feature].append(value)
            patients[feature].add(case.case.patient_id)
    return {
        feature: _moments(of) for feature, of in values.items() if len(patients[feature]) >= fewest_patients
    }


def moments_of_validation(
    network: nn.Module, cases: Sequence[PreprocessedCase], experiment: Experiment
) -> dict[str, Moments]:
    """Moments of the uncertainty of a model over cases; nothing without cases."""
    scores = [uncertainty_of([network], case, experiment).score for case in cases]
    return {UNCERTAINTY: _moments(scores)} if scores else {}


def to_figures(moments: Mapping[str, Moments]) -> dict[str, float | None]:
    """Moments as scalars of an answer, all of names in SCOPE_FIGURES."""
    return {
        f"{SCOPE}{feature}/{name}": float(getattr(found, name))
        for feature, found in moments.items()
        for name in _STATISTICS
    }


def read_moments(
    told: Mapping[str, float | None], counts: Mapping[str, int], task: Task
) -> dict[str, Moments]:
    """The moments of a task's features among the scalars of a site's answer; those that cannot be are passed over.

    They cannot be of more cases than the site described (`counts`), and an uncertainty lies between 0 and 1.
    """
    found = {}
    for feature in _features(task.spatial_dims, len(task.channels[:MOST_CHANNELS])):
        n, mean, sd = (told.get(f"{SCOPE}{feature}/{name}") for name in _STATISTICS)
        if n is None or mean is None or sd is None or n != int(n):
            continue
        part, most = ("validation", 1.0) if feature == UNCERTAINTY else ("train", MOST)
        least = 0.0 if feature == UNCERTAINTY else -MOST
        if 1 <= n <= counts[f"{part}_cases"] and least <= mean <= most and 0 <= sd <= most:
            found[feature] = Moments(n=int(n), mean=mean, sd=sd)
    return found


def join(sites: Iterable[Mapping[str, Moments]]) -> Scope | None:
    """The moments over the cases of all sites; None where no site told any."""
    told = [own for own in sites if own]
    by_feature: dict[str, list[Moments]] = defaultdict(list)
    for own in told:
        for feature, moments in own.items():
            by_feature[feature].append(moments)
    if not told:
        return None
    n_sites = {
        "training": sum(any(feature != UNCERTAINTY for feature in own) for own in told),
        "validation": sum(UNCERTAINTY in own for own in told),
    }
    return Scope(
        moments={feature: _joined(parts) for feature, parts in sorted(by_feature.items())}, sites=n_sites
    )


def window_faults(case: PreprocessedCase, task: Task) -> tuple[str, ...]:
    """Channels whose intensities lie almost all outside the window that the task gives them, a phrase each."""
    faults = []
    for number, channel in enumerate(task.channels):
        if channel.window is None or channel.clahe or number in case.case.missing:
            continue
        inside = float(np.mean(np.abs(case.image[number]) < 1))  # the window's ends are -1 and 1
        if inside < LEAST_INSIDE:
            faults.append(
                f"channel {channel.name}: {inside:.2%} of its voxels lie within the task's window, "
                f"{channel.window[0]:g} to {channel.window[1]:g}"
            )
    return tuple(faults)


def range_faults(case: PreprocessedCase, scope: Scope | None, task: Task) -> tuple[str, ...]:
    """Where spacing and intensities are not those of the training cases, a phrase each; none without a scope."""
    if scope is None:
        return ()
    faults = []
    for feature, value in features_of(case).items():
        allowed = scope.range_of(feature)
        if allowed is None or allowed[0] <= value <= allowed[1]:
            continue
        kind, _, place = feature.partition("/")
        if kind == "spacing":
            value, low, high = (math.exp(v) for v in (value, *allowed))
            faults.append(
                f"its {_axis(place, task)} spacing is {value:.3g} mm, trained on were {low:.3g} to {high:.3g} mm"
            )
        else:
            name, percent = task.channels[int(place)].name, kind[1:]
            faults.append(
                f"channel {name}: {percent} % of its voxels are below {value:.2f} after normalisation, trained on were "
                f"{allowed[0]:.2f} to {allowed[1]:.2f}"
            )
    return tuple(faults)


def what_is_missing(scope: Scope | None) -> tuple[str, ...]:
    """Why no case can be flagged, or held for spacing and intensity, by a model: a sentence each, for its user."""
    sentences = []
    if scope is None or scope.threshold is None:
        sentences.append(
            f"This model has no threshold of uncertainty: {_too_few(scope, UNCERTAINTY, 'validation')}. No case is "
            "flagged, which says nothing about how good a result is: look at every one as if it were."
        )
    ranged = [name for name in scope.moments if name != UNCERTAINTY] if scope else []
    if scope is None or not any(map(scope.range_of, ranged)):
        why = _too_few(scope, ranged[0] if ranged else "", "training")
        sentences.append(
            f"This model has no ranges of spacing and intensity: {why}. A case is held for "
            "its modality or the task's window alone: compare its scanner and protocol with those of training."
        )
    return tuple(sentences)


def _too_few(scope: Scope | None, feature: str, part: str) -> str:
    found = scope.moments.get(feature) if scope else None
    if found is None:
        return f"it came without figures of its {part} cases, from an earlier release or from sites that keep them"
    return (
        f"it has figures of {found.n} {part} case(s), and fewer than {FEWEST_CASES} do not tell what is usual"
    )


def told_ranges(scope: Scope, task: Task) -> list[tuple[str, float, float]]:
    """What each range is of, in words, with its lowest and highest value; spacing in mm."""
    ranges = []
    for feature in scope.moments:
        allowed = scope.range_of(feature)
        kind, _, place = feature.partition("/")
        if allowed is None or kind == UNCERTAINTY:
            continue
        if kind == "spacing":
            ranges.append((f"{_axis(place, task)} spacing, mm", math.exp(allowed[0]), math.exp(allowed[1])))
        else:
            ranges.append((f"{task.channels[int(place)].name}, {kind[1:]}th percentile", *allowed))
    return ranges


def _axis(place: str, task: Task) -> str:
    return _WORLD_AXES[int(place)] if task.spatial_dims == 3 else f"axis {place}"


def _moments(values: Sequence[float]) -> Moments:
    return Moments(n=len(values), mean=float(np.mean(values)), sd=float(np.std(values)))


def _joined(parts: Sequence[Moments]) -> Moments:
    """Moments of the union of disjoint sets of cases."""
    n = sum(part.n for part in parts)
    mean = sum(part.n * part.mean for part in parts) / n
    variance = sum(part.n * (part.sd**2 + (part.mean - mean) ** 2) for part in parts) / n
    return Moments(n=n, mean=mean, sd=math.sqrt(variance))
