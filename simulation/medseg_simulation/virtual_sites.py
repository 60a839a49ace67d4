"""One data set, prepared once, shared out among virtual hospitals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medseg_client.site_data import SiteData, split_site
from medseg_core.cohort.cache import prepare_cases
from medseg_core.cohort.manifest import read_cohort
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.cohort.split import Fold
from medseg_core.config import Experiment
from medseg_core.errors import FaultyCasesError
from medseg_simulation.partition import partition_patients, patient_facts


@dataclass(frozen=True)
class VirtualSites:
    """The prepared cases of each site, in order of site and case."""

    cases: Mapping[str, tuple[PreprocessedCase, ...]]
    warnings: tuple[str, ...]

    def split(self, experiment: Experiment, fold: Fold | None) -> dict[str, SiteData]:
        """Each site's cases by purpose. Raises TooFewPatientsError."""
        return {
            site: split_site(cases, experiment, site=site, fold=fold) for site, cases in self.cases.items()
        }


def open_sites(
    data: Path, experiment: Experiment, *, cache: Path, on_case: Callable[[int], None] = lambda total: None
) -> VirtualSites:
    """Read, check and prepare every case of `data`, then share the patients out as [simulation] partition says.

    Raises:
        ManifestError, PartitionError: the list of cases does not serve.
        FaultyCasesError: some cases are faulty; lists them all.
    """
    cohort = read_cohort(data, experiment.task)
    total = len(cohort.cases)
    prepared = prepare_cases(
        cohort.cases,
        experiment.task,
        cache,
        threads=experiment.training.cpu_threads,
        on_case=lambda: on_case(total),
    )
    if prepared.faults:
        raise FaultyCasesError([fault.error for fault in prepared.faults], total)
    volumes = {name: case.foreground_mm3 for name, case in prepared.cases.items()}
    shares = partition_patients(
        patient_facts(cohort.cases, volumes), experiment.simulation, seed=experiment.federation.seed
    )
    return VirtualSites(
        {site: _cases_of(site, patients, prepared.cases) for site, patients in shares.items()},
        (*cohort.warnings, *prepared.warnings),
    )


def pooled(data: Mapping[str, SiteData]) -> SiteData:
    """All sites' cases together, each in the part that its site put it in."""
    parts = ("train", "validation", "test")
    return SiteData(*(tuple(c for d in data.values() for c in getattr(d, part)) for part in parts))


def _cases_of(
    site: str, patients: tuple[str, ...], prepared: Mapping[str, PreprocessedCase]
) -> tuple[PreprocessedCase, ...]:
    """A site's cases, each carrying the virtual site's name."""
    chosen = set(patients)
    own = [c for c in prepared.values() if c.case.patient_id in chosen]
    return tuple(
        replace(c, case=replace(c.case, site=site)) for c in sorted(own, key=lambda c: c.case.case_id)
    )
