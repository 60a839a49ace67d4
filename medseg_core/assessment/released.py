"""The test scores that sites release: figures of a site, read back and joined to those of the federation.

In: what `site_figures` gave at each site, by way of an envelope. Out: the same block that `summarise` makes from cases.
A mean over all cases is the sites' means, each weighted by the cases that define the metric; an interval over all
patients cannot be had from the sites' own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medseg_core.assessment.metrics import METRICS, OPTIONAL_METRICS
from medseg_core.assessment.scores import Means, mean_of

Figures = dict[str, float | None]  # of one site, by the names that `site_figures` gives

_COUNTS = ("n_cases", "n_patients", "n_empty")
_INTERVAL = ("dice_low", "dice_high")
_LEAST = {"volume_error": -1.0}  # all others: 0
_UNBOUNDED = OPTIONAL_METRICS  # all others: at most 1


def read_figures(
    told: Mapping[str, float | None], labels: Sequence[str], *, n_cases: int, n_patients: int
) -> Figures | str:
    """The figures of a site and nothing else that it told, or the reason why they cannot be used.

    A label of which it tells nothing is not annotated there. `bad_count`: not of the cases and patients that it
    described. `bad_score`: a figure is missing or impossible.
    """
    labels = _told_labels(told, labels)
    if (told.get("n_cases"), told.get("n_patients")) != (n_cases, n_patients):
        return "bad_count"
    if not labels:
        return "bad_score"
    figures: Figures = {}
    for name in (*_COUNTS, *_INTERVAL, *_names(labels)):
        if name not in told or not _is_possible(name, told[name], n_cases):
            return "bad_score"
        figures[name] = told[name]
    if any((figures[key] is None) != (_weight(figures, key) == 0) for key in _scores(labels)):
        return "bad_score"
    return figures


def pool_figures(sites: Mapping[str, Figures], labels: Sequence[str]) -> dict[str, Any]:
    """A model's block of `summary.json` from the figures of at least one site."""
    own = {site: _site_scores(figures) for site, figures in sorted(sites.items())}
    worst = min(own, key=lambda site: (own[site]["dice"], site))
    return {
        "mean": _means(sites.values(), ""),
        "site_mean": mean_of(own.values()),
        "worst_site": {"site": worst, "dice": own[worst]["dice"]},
        "labels": {
            label: _means(with_label, f"{label}/")
            for label in labels
            if (with_label := [figures for figures in sites.values() if _told_labels(figures, [label])])
        },
        "sites": own,
    }


def _told_labels(told: Mapping[str, float | None], labels: Sequence[str]) -> list[str]:
    """Those of the labels of which a site tells something."""
    return [label for label in labels if any(name.startswith(f"{label}/") for name in told)]


def _site_scores(figures: Figures) -> dict[str, Any]:
    """The figures of one site but for those of its labels."""
    counts = {name: int(figures[name] or 0) for name in _COUNTS}
    return {name: figures[name] for name in (*METRICS, *_INTERVAL)} | counts


def _means(sites: Iterable[Figures], prefix: str) -> Means:
    """Mean of each metric over the cases of all sites that define it."""
    kept = list(sites)
    return {metric: _mean(kept, prefix + metric) for metric in METRICS}


def _mean(sites: Sequence[Figures], key: str) -> float | None:
    weighted = [(value, _weight(own, key)) for own in sites if (value := own[key]) is not None]
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total else None


def _weight(figures: Figures, key: str) -> float:
    """Cases that a mean rests on."""
    is_optional = key.rpartition("/")[2] in OPTIONAL_METRICS
    return figures[f"{key}_cases" if is_optional else "n_cases"] or 0.0


def _scores(labels: Sequence[str]) -> list[str]:
    """Names of all means: over labels, and of each label."""
    return [prefix + metric for prefix in ("", *(f"{label}/" for label in labels)) for metric in METRICS]


def _names(labels: Sequence[str]) -> list[str]:
    """Names of all means and of the counts that some rest on."""
    means = _scores(labels)
    return means + [f"{key}_cases" for key in means if key.rpartition("/")[2] in OPTIONAL_METRICS]


def _is_possible(name: str, value: float | None, n_cases: int) -> bool:
    metric = name.rpartition("/")[2]
    if value is None:
        return metric in OPTIONAL_METRICS or metric in _INTERVAL
    if metric.endswith("_cases"):
        return value == int(value) and 0 <= value <= n_cases
    if metric in _COUNTS:
        return value == int(value) and value >= 0
    return value >= _LEAST.get(metric, 0.0) and (metric in _UNBOUNDED or value <= 1)
