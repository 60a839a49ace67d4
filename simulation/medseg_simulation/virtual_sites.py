"""One data set, prepared once, shared out among virtual hospitals that may differ in what they have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medseg_client.site_data import SiteData, split_site
from medseg_core.cohort.cache import Prepared, cases_sha256, prepare_readings
from medseg_core.cohort.manifest import read_cohort
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.cohort.reading import Reading
from medseg_core.cohort.split import Fold
from medseg_core.config import Experiment, Task
from medseg_core.errors import FaultyCasesError
from medseg_core.types import Case
from medseg_simulation.errors import PartitionError
from medseg_simulation.partition import named_site, partition_patients, patient_facts
from medseg_simulation.scanner_effects import scanner_at


@dataclass(frozen=True)
class VirtualSites:
    """The prepared cases of each site, in order of site and case.

    `data_sha256` names all of them. `tested` has, by name, the cases that are scored as other than what their site
    knows: with every label.
    """

    cases: Mapping[str, tuple[PreprocessedCase, ...]]
    warnings: tuple[str, ...]
    data_sha256: str
    tested: Mapping[str, PreprocessedCase] = field(default_factory=dict)

    def split(self, experiment: Experiment, fold: Fold | None) -> dict[str, SiteData]:
        """Each site's cases by purpose. Raises TooFewPatientsError."""
        known = {
            site: split_site(cases, experiment, site=site, fold=fold) for site, cases in self.cases.items()
        }
        return {
            site: replace(own, test=tuple(self.tested.get(c.case.case_id, c) for c in own.test))
            for site, own in known.items()
        }


def open_sites(
    data: Path, experiment: Experiment, *, cache: Path, on_case: Callable[[int], None] = lambda total: None
) -> VirtualSites:
    """Share the patients out as [simulation] partition says; read, check and prepare the cases of every site.

    Raises:
        ManifestError, PartitionError: the list of cases, or what is said of a site, does not serve.
        FaultyCasesError: some cases are faulty; lists them all.
    """
    cohort = read_cohort(data, experiment.task)
    settings, threads = experiment.simulation, experiment.training.cpu_threads
    volumes = dict.fromkeys((case.case_id for case in cohort.cases), 0.0)
    if settings.partition == "dirichlet":  # goes by the size of the structure
        plain = [(case, Reading(experiment.task)) for case in cohort.cases]
        prepared = _sound(prepare_readings(plain, cache, threads=threads))
        volumes = {name: case.foreground_mm3 for name, case in prepared.cases.items()}
    sites = _share_out(cohort.cases, experiment, volumes)
    _require_labels_somewhere(tuple(sites), experiment)
    readings = [(case, reading_at(site, experiment)) for site, cases in sites.items() for case in cases]
    prepared = _sound(
        prepare_readings(readings, cache, threads=threads, on_case=lambda: on_case(len(readings)))
    )
    partly_known = [
        site for site in sites if settings.score_all_labels and settings.labels_at(site).not_annotated
    ]
    whole = [
        (case, reading_at(site, experiment, all_labels=True)) for site in partly_known for case in sites[site]
    ]
    return VirtualSites(
        {site: tuple(prepared.cases[case.case_id] for case in cases) for site, cases in sites.items()},
        (*cohort.warnings, *prepared.warnings),
        cases_sha256(cohort.cases, cache),
        _sound(prepare_readings(whole, cache, threads=threads)).cases,
    )


def _require_labels_somewhere(sites: Sequence[str], experiment: Experiment) -> None:
    """Every label is annotated at some site, or the model would draw it untaught. Raises PartitionError."""
    settings = experiment.simulation
    for label in experiment.task.labels:
        if all(label in settings.labels_at(site).not_annotated for site in sites):
            fault = f"label {label} is annotated at none of the sites"
            remedy = "Take it out of [task] labels, or out of not_annotated at one of them."
            raise PartitionError(settings.partition, fault, remedy)


def reading_at(site: str, experiment: Experiment, *, all_labels: bool = False) -> Reading:
    """How a virtual site's files are read; with `all_labels`, also those that the site does not annotate."""
    settings = experiment.simulation
    labels = settings.labels_at(site)
    if all_labels:
        labels = labels.model_copy(update={"not_annotated": ()})
    scanner = scanner_at(site, settings.scanner, seed=experiment.federation.seed)
    return Reading(experiment.task.at_site(labels), scanner)


def task_of(experiment: Experiment, case: Case) -> Task:
    """The task by which a case is scored: in the values of the site that the data name for it, if they name one."""
    settings = experiment.simulation
    site = named_site(case, settings.partition)
    return reading_at(site, experiment, all_labels=settings.score_all_labels).task


def tasks_of_cases(cases: Sequence[Case], experiment: Experiment) -> dict[str, Task]:
    """By name, the task by which a run reads each case; not for dirichlet, which goes by what is read.

    Raises PartitionError.
    """
    sites = _share_out(cases, experiment, dict.fromkeys((case.case_id for case in cases), 0.0))
    return {case.case_id: reading_at(site, experiment).task for site, own in sites.items() for case in own}


def pooled(data: Mapping[str, SiteData]) -> SiteData:
    """All sites' cases together, each in the part that its site put it in."""
    parts = ("train", "validation", "test")
    return SiteData(*(tuple(c for d in data.values() for c in getattr(d, part)) for part in parts))


def _share_out(
    cases: Sequence[Case], experiment: Experiment, volumes: Mapping[str, float]
) -> dict[str, list[Case]]:
    """Each site's cases in order, carrying the virtual site's name. Raises PartitionError."""
    settings = experiment.simulation
    facts = patient_facts(cases, volumes)
    shares = partition_patients(facts, settings, seed=experiment.federation.seed)
    if unknown := sorted(settings.site.keys() - shares.keys()):
        remedy = f"Known are {', '.join(shares)}: correct the name of the section."
        raise PartitionError(settings.partition, f"no site is [simulation.site.{unknown[0]}]", remedy)
    ordered = sorted(cases, key=lambda case: case.case_id)
    return {
        site: [replace(case, site=site) for case in ordered if case.patient_id in chosen]
        for site, chosen in ((site, set(patients)) for site, patients in shares.items())
    }


def _sound(prepared: Prepared) -> Prepared:
    """What was prepared. Raises FaultyCasesError unless all of it was."""
    if prepared.faults:
        total = len(prepared.cases) + len(prepared.faults)
        raise FaultyCasesError([fault.error for fault in prepared.faults], total)
    return prepared
