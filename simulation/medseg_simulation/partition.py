"""Which patient belongs to which virtual site. Patients in, whole patients out: never a part of one."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from medseg_core.config import Simulation
from medseg_core.seeding import derive_seed
from medseg_core.types import Case
from medseg_simulation.errors import PartitionError

LEAST_PATIENTS = 8  # at each site of a Dirichlet partition: 5 to train on, 1 to validate, 2 to test
BINS = 4  # quartiles of foreground volume
BLOCKS, BLOCK = 20, 5_000  # blocks of redraws before giving up; a second in all for 8 sites
OTHERS = "iid, quantity, dirichlet or attribute:NAME"

Sites = dict[str, tuple[str, ...]]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PatientFacts:
    """What sharing out needs to know about a patient.

    `foreground_mm3` is the mean over the patient's cases (pixels where no spacing is known). An attribute has
    one value or, where the patient's cases disagree, several.
    """

    patient_id: str
    site: str
    foreground_mm3: float
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


Patients = Sequence[PatientFacts]


def patient_facts(cases: Iterable[Case], foreground_mm3: Mapping[str, float]) -> tuple[PatientFacts, ...]:
    """Facts of each patient, in order of identifier; `foreground_mm3` is by case.

    Raises PartitionError if a patient has two sites.
    """
    by_patient: dict[str, list[Case]] = {}
    for case in cases:
        by_patient.setdefault(case.patient_id, []).append(case)
    return tuple(_facts_of(patient, by_patient[patient], foreground_mm3) for patient in sorted(by_patient))


def partition_patients(patients: Patients, settings: Simulation, *, seed: int) -> Sites:
    """Every patient at exactly one site; sites and patients in order of name.

    Depends on the set of patients, the settings and the seed alone, not on the order of `patients`.
    `natural` and `attribute:NAME` take as many sites as there are values and ignore `settings.sites`.
    Raises PartitionError naming the patient, value or setting at fault.
    """
    ordered = sorted(patients, key=lambda patient: patient.patient_id)
    generator = np.random.default_rng(derive_seed(seed, purpose="partition"))
    match settings.partition:
        case "natural":
            return _by_value(ordered, "natural", _natural_site)
        case "iid":
            return _by_size(ordered, "iid", np.ones(settings.sites), generator)
        case "quantity":
            return _by_size(ordered, "quantity", np.arange(settings.sites, 0.0, -1), generator)
        case "dirichlet":
            return _dirichlet(ordered, settings, generator)
        case attribute:
            name = attribute.removeprefix("attribute:")
            return _by_value(ordered, attribute, _attribute_reader(ordered, name))


def site_name(value: str) -> str:
    """`value` as a site name: ASCII letters, digits, `_.-`, at most 64; empty if nothing of it can stay."""
    plain = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-_.")[:64].rstrip("-_.")


def named_site(case: Case, partition: str) -> str:
    """The site that the data name for a case; empty where sites are artificial, or nothing is named."""
    kind, _, attribute = partition.partition(":")
    named = {"natural": case.site, "attribute": case.attributes.get(attribute, "")}
    return site_name(named.get(kind, "").strip())


def _facts_of(patient: str, cases: Sequence[Case], foreground_mm3: Mapping[str, float]) -> PatientFacts:
    """The facts of one patient from all cases of that patient."""
    sites = sorted({case.site for case in cases})
    if len(sites) > 1:
        fault = f"patient {patient} is at {len(sites)} sites ({', '.join(sites)})"
        remedy = "Correct the site column, or give different patients different identifiers."
        raise PartitionError("by patient", fault, remedy)
    names = sorted({name for case in cases for name in case.attributes})
    values = {name: {case.attributes.get(name, "").strip() for case in cases} for name in names}
    mean = float(np.mean([foreground_mm3[case.case_id] for case in cases]))
    return PatientFacts(patient, sites[0], mean, {name: tuple(sorted(values[name])) for name in names})


# ---- one site for each value -----------------------------------------------------------------------


def _by_value(patients: Patients, partition: str, value_of: Callable[[PatientFacts], str]) -> Sites:
    """One site for each value, named after it."""
    members: dict[str, list[str]] = {}
    for patient in patients:
        members.setdefault(value_of(patient), []).append(patient.patient_id)
    names = _names_of(sorted(members), partition)
    return {name: tuple(members[value]) for name, value in sorted(names.items())}


def _names_of(values: Sequence[str], partition: str) -> dict[str, str]:
    """Site name -> value. Names differ in more than case, since folders are named after them."""
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for value in values:
        name = site_name(value)
        if not name:
            fault = f"no site name can be made of {value!r}"
            raise PartitionError(partition, fault, "Give it ASCII letters or digits in the manifest.")
        if other := taken.get(name.casefold()):
            fault = f"{other!r} and {value!r} would both be site {name}"
            remedy = "Write them alike in the manifest if they are one site, else less alike."
            raise PartitionError(partition, fault, remedy)
        names[name], taken[name.casefold()] = value, value
    return names


def _natural_site(patient: PatientFacts) -> str:
    """The patient's own site. Raises PartitionError where the manifest names none."""
    if not patient.site.strip():
        fault = f"patient {patient.patient_id} has no site in the manifest"
        raise PartitionError("natural", fault, f"Fill the site column, or use --partition {OTHERS}.")
    return patient.site.strip()


def _attribute_reader(patients: Patients, name: str) -> Callable[[PatientFacts], str]:
    """Reads one attribute. Raises PartitionError if no patient has it."""
    known = sorted({attribute for patient in patients for attribute in patient.attributes})
    if name not in known:
        remedy = f"Known are: {', '.join(known)}." if known else "It has no further columns: add one."
        raise PartitionError(f"attribute:{name}", f"the manifest has no column {name!r}", remedy)
    return lambda patient: _one_value(patient, name)


def _one_value(patient: PatientFacts, name: str) -> str:
    """The patient's one value of an attribute. Raises PartitionError if there is none, or more than one."""
    values = patient.attributes.get(name, ())
    if len(values) > 1:
        fault = f"patient {patient.patient_id} has {len(values)} values of {name} ({', '.join(values)})"
        remedy = "A patient is never divided: give all cases of one patient the same value."
        raise PartitionError(f"attribute:{name}", fault, remedy)
    if not values or not values[0].strip():
        fault = f"patient {patient.patient_id} has no value of {name}"
        remedy = f"Fill column {name} of the manifest, or leave the patient out."
        raise PartitionError(f"attribute:{name}", fault, remedy)
    return values[0].strip()


# ---- artificial sites ------------------------------------------------------------------------------


def _by_size(patients: Patients, partition: str, shares: Floats, generator: np.random.Generator) -> Sites:
    """Sites of sizes proportional to `shares`, cut from a shuffle."""
    sizes = _sizes(len(patients), shares)
    if sizes.min() == 0:
        fault = f"{len(patients)} patients would give sites of {', '.join(map(str, sizes))}"
        raise PartitionError(partition, fault, "Use fewer [simulation] sites, or more patients.")
    shuffled = generator.permutation(len(patients))
    groups = np.split(shuffled, np.cumsum(sizes)[:-1])
    return _numbered(patients, groups)


def _sizes(count: int, shares: Floats) -> Integers:
    """`count` divided in proportion to `shares`, by largest remainder, the earlier site first on a tie."""
    exact = count * shares / shares.sum()
    sizes: Integers = np.floor(exact).astype(np.int64)
    largest = np.argsort(-np.round(exact - sizes, 9), kind="stable")  # rounded: equal remainders stay equal
    sizes[largest[: count - sizes.sum()]] += 1
    return sizes


def _dirichlet(patients: Patients, settings: Simulation, generator: np.random.Generator) -> Sites:
    """Each quartile of foreground volume divided by its own Dirichlet draw.

    Source: Li et al. 2022 (NIID-Bench), distribution-based label skew, with the quartile for the label.
    """
    if len(patients) < LEAST_PATIENTS * settings.sites:
        fault = f"{len(patients)} patients cannot give {settings.sites} sites {LEAST_PATIENTS} each"
        most = len(patients) // LEAST_PATIENTS
        remedy = f"Use at most {most} [simulation] sites" if most else "Use --partition iid"
        raise PartitionError("dirichlet", fault, f"{remedy}, or more patients.")
    bins = _quartiles(np.array([patient.foreground_mm3 for patient in patients]))
    cuts = _accepted_cuts([len(members) for members in bins], settings, generator)
    groups: list[list[int]] = [[] for _ in range(settings.sites)]
    for members, cut in zip(bins, cuts, strict=True):
        for group, part in zip(groups, np.split(generator.permutation(members), cut[:-1]), strict=True):
            group.extend(part.tolist())
    return _numbered(patients, groups)


def _quartiles(foreground: Floats) -> list[Integers]:
    """Positions of the patients in each quartile; equal volumes share a bin, so bins may differ in size."""
    edges = np.quantile(foreground, np.arange(1, BINS) / BINS)
    bin_of = np.searchsorted(edges, foreground, side="left")
    return [np.flatnonzero(bin_of == number) for number in range(BINS)]


def _accepted_cuts(sizes: Sequence[int], settings: Simulation, generator: np.random.Generator) -> Integers:
    """Where to cut each bin, (bin, site), of the first draw that leaves every site enough patients."""
    fullest = 0
    for _ in range(BLOCKS):
        concentration = np.full(settings.sites, settings.dirichlet_alpha)
        shares = generator.dirichlet(concentration, size=(BLOCK, len(sizes)))  # (draw, bin, site)
        cuts: Integers = np.rint(np.cumsum(shares, axis=-1) * np.array(sizes)[:, None]).astype(np.int64)
        cuts[..., -1] = sizes  # the shares sum to 1 up to rounding only
        smallest = np.diff(cuts, axis=-1, prepend=0).sum(axis=1).min(axis=-1)  # (draw,): of the smallest site
        accepted: list[Integers] = list(cuts[smallest >= LEAST_PATIENTS])
        if accepted:
            return accepted[0]
        fullest = max(fullest, int(smallest.max()))
    fault = f"no draw of {BLOCKS * BLOCK} left all {settings.sites} sites {LEAST_PATIENTS} (best {fullest})"
    remedy = f"Raise [simulation] dirichlet_alpha (now {settings.dirichlet_alpha:g}), or use fewer sites."
    raise PartitionError("dirichlet", fault, remedy)


def _numbered(patients: Patients, groups: Sequence[Sequence[int] | Integers]) -> Sites:
    """Groups of positions as sites site-1, site-2, .. with patients in order of identifier."""
    return {
        f"site-{number}": tuple(patients[position].patient_id for position in sorted(group))
        for number, group in enumerate(groups, start=1)
    }
