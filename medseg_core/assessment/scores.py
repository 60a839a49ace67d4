"""From the scores of cases to those of a model: means, sites, intervals over patients, paired differences.

A mean over cases leaves out the cases for which a metric is not defined. Intervals are percentile bootstraps
that draw patients, never cases: images of one patient are alike and would make the interval too narrow.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from medseg_core.assessment.metrics import METRICS, LabelScores
from medseg_core.errors import UnreadableRunError
from medseg_core.files import write_atomic
from medseg_core.seeding import derive_seed

Means = dict[str, float | None]  # metric -> mean; None where no case defines it
COVERAGE = (2.5, 97.5)  # percentiles of the 95 % interval


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case under one model."""

    case_id: str
    patient_id: str
    site: str
    labels: Annotated[Mapping[str, LabelScores], Field(min_length=1)]

    @property
    def mean(self) -> Means:
        """Mean over the foreground labels: what is called the score of the case."""
        return mean_of(asdict(scores) for scores in self.labels.values())

    @property
    def dice(self) -> float:
        """Mean Dice over the foreground labels; always defined."""
        return sum(scores.dice for scores in self.labels.values()) / len(self.labels)

    @property
    def n_empty(self) -> int:
        """Labels that exactly one of prediction and truth holds."""
        return sum(scores.n_empty for scores in self.labels.values())

    def to_json(self) -> dict[str, Any]:
        """The case as `cases.json` lists it."""
        labels = {label: asdict(scores) for label, scores in self.labels.items()}
        return {
            "case_id": self.case_id,
            "patient_id": self.patient_id,
            "site": self.site,
            "mean": self.mean,
            "labels": labels,
        }


_CONFIG = ConfigDict(allow_inf_nan=False, extra="ignore")
_CASES = TypeAdapter(dict[str, list[CaseScores]], config=_CONFIG)
_SITE_CASES = TypeAdapter(list[CaseScores], config=_CONFIG)
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class PairedDifference:
    """How much higher one model's mean Dice is than another's on the same cases, with its 95 % interval."""

    dice: float
    low: float | None  # None with a single patient
    high: float | None
    n_cases: int
    n_patients: int


def write_cases(path: Path, models: Mapping[str, Sequence[CaseScores]]) -> None:
    """Write `cases.json`: model -> its cases. Raises UnusableFolderError."""
    document = {model: [case.to_json() for case in cases] for model, cases in models.items()}
    write_atomic(path, json.dumps(document, allow_nan=False, indent=1).encode())


def read_cases(path: Path) -> dict[str, list[CaseScores]]:
    """The cases of each model in a `cases.json`. Raises UnreadableRunError."""
    return _read(path, _CASES.validate_json)


def read_site_cases(path: Path) -> list[CaseScores]:
    """The cases that a site keeps of the one model that it tested. Raises UnreadableRunError."""
    return _read(path, _SITE_CASES.validate_json)


def _read(path: Path, parse: Callable[[bytes], _Read]) -> _Read:
    try:
        return parse(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UnreadableRunError(path, f"{where}: {fault['msg']}") from None
    except OSError as error:
        raise UnreadableRunError(path, error.strerror or type(error).__name__) from None


def mean_scores(cases: Sequence[CaseScores]) -> Means:
    """Mean of each metric over cases."""
    return mean_of(case.mean for case in cases)


def by_site(cases: Iterable[CaseScores]) -> dict[str, list[CaseScores]]:
    """Cases of each site, sites in alphabetical order."""
    ordered = sorted(cases, key=lambda case: (case.site, case.patient_id, case.case_id))
    return {site: list(group) for site, group in groupby(ordered, key=lambda case: case.site)}


def own_site_cases(models: Mapping[str, Sequence[CaseScores]]) -> list[CaseScores]:
    """Each case as scored by the model that its site trained alone: of `local:SITE`, the cases of SITE."""
    return [case for name, cases in models.items() for case in cases if name == f"local:{case.site}"]


def summarise(cases: Sequence[CaseScores], *, seed: int, samples: int) -> dict[str, Any]:
    """One model's block of `summary.json` from its cases, of which there is at least one.

    `samples` bootstrap draws a site, seeded by `seed` and the site's name: a site that scores its own cases
    gets the same interval. Keys: mean, site_mean, worst_site, labels, sites.
    """
    sites = {site: _summarise_site(own, seed=seed, samples=samples) for site, own in by_site(cases).items()}
    worst = min(sites, key=lambda site: (sites[site]["dice"], site))
    return {
        "mean": mean_scores(cases),
        "site_mean": mean_of(sites.values()),
        "worst_site": {"site": worst, "dice": sites[worst]["dice"]},
        "labels": {label: _label_means(label, cases) for label in _labels_of(cases)},
        "sites": sites,
    }


def _labels_of(cases: Sequence[CaseScores]) -> list[str]:
    """Labels that are annotated in some case; in the order of the task where one case has them all."""
    fullest_first = sorted(cases, key=lambda case: -len(case.labels))
    return list(dict.fromkeys(label for case in fullest_first for label in case.labels))


def _label_means(label: str, cases: Sequence[CaseScores]) -> Means:
    """Mean of each metric of a label over the cases in which it is annotated."""
    return mean_of(asdict(case.labels[label]) for case in cases if label in case.labels)


def _summarise_site(cases: Sequence[CaseScores], *, seed: int, samples: int) -> dict[str, Any]:
    """Means of one site's cases, the interval of its Dice and what it rests on."""
    site = cases[0].site
    rng = np.random.default_rng(derive_seed(seed, site=site, purpose="bootstrap"))
    low, high = patient_interval(cases, [case.dice for case in cases], samples=samples, rng=rng)
    return {
        **mean_scores(cases),
        "dice_low": low,
        "dice_high": high,
        "n_cases": len(cases),
        "n_patients": len(_patients(cases)),
        "n_empty": sum(case.n_empty for case in cases),
    }


def patient_interval(
    cases: Sequence[CaseScores], values: Sequence[float], *, samples: int, rng: np.random.Generator
) -> tuple[float | None, float | None]:
    """95 % interval of the mean of `values`, one a case, over `samples` draws of equally many patients.

    A drawn patient brings all their cases. (None, None) for fewer than two patients. The order of cases
    changes nothing.
    """
    patients = _patients(cases)
    if len(patients) < 2:
        return None, None
    sums, counts = np.zeros(len(patients)), np.zeros(len(patients))
    for case, value in sorted(zip(cases, values, strict=True), key=lambda pair: pair[0].case_id):
        sums[patients[case.site, case.patient_id]] += value
        counts[patients[case.site, case.patient_id]] += 1
    means = _resampled_means(sums, counts, samples=samples, rng=rng)
    low, high = np.percentile(means, COVERAGE)
    return float(low), float(high)


def paired_difference(
    model: Sequence[CaseScores], other: Sequence[CaseScores], *, seed: int, samples: int
) -> PairedDifference | None:
    """Mean Dice of `model` minus that of `other` over the cases that both scored; None where there is none.

    Patients are drawn whole, and both scores of a case together: how hard a patient is cancels out.
    """
    others = {(case.site, case.case_id): case.dice for case in other}
    shared = [case for case in model if (case.site, case.case_id) in others]
    if not shared:
        return None
    differences = [case.dice - others[case.site, case.case_id] for case in shared]
    rng = np.random.default_rng(derive_seed(seed, purpose="bootstrap"))
    low, high = patient_interval(shared, differences, samples=samples, rng=rng)
    return PairedDifference(float(np.mean(differences)), low, high, len(shared), len(_patients(shared)))


def mean_of(rows: Iterable[Mapping[str, Any]]) -> Means:
    """Mean of each metric over the rows that define it."""
    kept = list(rows)
    values = {metric: [row[metric] for row in kept if row[metric] is not None] for metric in METRICS}
    return {metric: sum(known) / len(known) if known else None for metric, known in values.items()}


def _resampled_means(
    sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], *, samples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Means over cases of `samples` draws of patients, given each patient's sum and number of cases."""
    drawn = rng.integers(len(sums), size=(samples, len(sums)))
    return np.asarray(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))


def _patients(cases: Sequence[CaseScores]) -> dict[tuple[str, str], int]:
    """Number of each patient, in alphabetical order. The same identifier at two sites is two patients."""
    return {key: n for n, key in enumerate(sorted({(case.site, case.patient_id) for case in cases}))}
