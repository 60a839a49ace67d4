"""The cases of one site, prepared for one experiment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg_core.cohort.cache import prepare_cohort
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.cohort.split import Fold, split_cases
from medseg_core.config import Experiment, Task, experiment_sha256

OPENED_MOST = 4  # experiments whose cases stay mapped; others are mapped again from the cache


@dataclass(frozen=True)
class SiteData:
    """Preprocessed cases by purpose. `test` is read for the chosen model only, after training."""

    train: tuple[PreprocessedCase, ...]
    validation: tuple[PreprocessedCase, ...]
    test: tuple[PreprocessedCase, ...]


def open_site_data(
    data: Path,
    experiment: Experiment,
    *,
    site: str,
    cache: Path,
    on_warning: Callable[[str], None],
    task: Task | None = None,
) -> SiteData:
    """Read, check, prepare and split every case of a hospital's folder, whatever its `site` column says.

    `task` is the experiment's in the values of the hospital's label files, where they differ.

    Raises:
        ManifestError: the list of cases does not serve.
        FaultyCasesError: some cases are faulty; lists them all.
        TooFewPatientsError: too few patients to split.
    """
    cases = prepare_cohort(
        data,
        task or experiment.task,
        cache,
        threads=experiment.training.cpu_threads,
        on_warning=on_warning,
    )
    return split_site([replace(c, case=replace(c.case, site=site)) for c in cases], experiment, site=site)


def keep_opened(open_data: Callable[[Experiment], SiteData]) -> Callable[[Experiment], SiteData]:
    """What `open_data` gives, by the experiment's hash; of those asked for last a few are held."""
    opened: dict[str, SiteData] = {}

    def data_of(experiment: Experiment) -> SiteData:
        sha256 = experiment_sha256(experiment)
        data = opened.pop(sha256) if sha256 in opened else open_data(experiment)
        opened[sha256] = data  # the one asked for last is last
        for oldest in list(opened)[:-OPENED_MOST]:
            del opened[oldest]
        return data

    return data_of


def split_site(
    cases: Sequence[PreprocessedCase], experiment: Experiment, *, site: str, fold: Fold | None = None
) -> SiteData:
    """A site's prepared cases by purpose. Raises TooFewPatientsError."""
    by_id = {c.case.case_id: c for c in cases}
    split = split_cases([c.case for c in cases], site=site, seed=experiment.federation.seed, fold=fold)
    return SiteData(
        *(tuple(by_id[c.case_id] for c in part) for part in (split.train, split.validation, split.test))
    )


def case_counts(data: SiteData, experiment: Experiment) -> dict[str, int]:
    """Cases and patients by purpose: `train_cases`, `train_patients`, and so on.

    And `train_voxels`, those of the prepared images, where sites are weighed by them.
    """
    counts = {}
    for purpose in ("train", "validation", "test"):
        cases = getattr(data, purpose)
        counts[f"{purpose}_cases"] = len(cases)
        counts[f"{purpose}_patients"] = count_patients(cases)
    if experiment.federation.weights == "voxels":
        counts["train_voxels"] = sum(case.label.size for case in data.train)
    return counts


def count_patients(cases: Sequence[PreprocessedCase]) -> int:
    """Patients that the cases are of."""
    return len({c.case.patient_id for c in cases})
