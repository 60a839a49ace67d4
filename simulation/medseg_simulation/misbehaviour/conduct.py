"""Who misbehaves, and how: [simulation.faults] for the sites that there are."""

from dataclasses import dataclass

import numpy as np

from medseg_client.site_data import SiteData
from medseg_core.config import Experiment, Faults
from medseg_core.seeding import derive_seed
from medseg_simulation.errors import FaultySitesError, UnteachableTargetError
from medseg_simulation.misbehaviour.backdoor import poisoned
from medseg_simulation.misbehaviour.images import with_labels_flipped


@dataclass(frozen=True)
class Misconduct:
    """What one virtual site does wrong."""

    site: str
    faults: Faults
    seed: int  # of the experiment
    rounds: int  # of the run

    def rng(self, round_number: int) -> np.random.Generator:
        """What this site's fault draws from in a round; 0: once for the run."""
        seed = derive_seed(self.seed, site=self.site, round_number=round_number, purpose="fault")
        return np.random.default_rng(seed)

    def misses(self, round_number: int) -> bool:
        """Whether the site does not contribute to a round: the same at each attempt."""
        match self.faults.kind:
            case "nan":
                return True
            case "drop_out" | "straggler":
                return bool(self.rng(round_number).random() < self.faults.probability)
            case _:
                return False

    def progress(self, round_number: int) -> float:
        """0 in the first round of the run, 1 in the last."""
        return (round_number - 1) / (self.rounds - 1) if self.rounds > 1 else 1.0


def misconduct_of(experiment: Experiment, sites: tuple[str, ...]) -> dict[str, Misconduct]:
    """The sites that misbehave: those named, or as many as asked for, drawn by seed.

    None where a back door is only measured. Raises FaultySitesError, UnteachableTargetError.
    """
    faults, federation = experiment.simulation.faults, experiment.federation
    if faults is None:
        return {}
    if isinstance(faults.sites, int):
        if faults.sites > len(sites):
            raise FaultySitesError(f"{faults.sites} sites", sites)
        rng = np.random.default_rng(derive_seed(federation.seed, purpose="fault"))
        chosen = [str(site) for site in rng.choice(sorted(sites), size=faults.sites, replace=False)]
    else:
        chosen = list(faults.sites)
        if unknown := [site for site in chosen if site not in sites]:
            raise FaultySitesError(", ".join(unknown), sites)
    if faults.kind == "backdoor" and faults.poisoned == 0:
        return {}
    target, labels_at = faults.target_label, experiment.simulation.labels_at
    blind = [site for site in chosen if target in labels_at(site).not_annotated]
    if faults.kind == "backdoor" and target and blind:
        raise UnteachableTargetError(target, blind[0])
    return {
        site: Misconduct(site, faults, federation.seed, federation.rounds) for site in sorted(set(chosen))
    }


def misled(data: SiteData, experiment: Experiment, misconduct: Misconduct) -> SiteData:
    """The cases of a site as its training meets them: wrong labels or triggers where the fault is one of the data."""
    match misconduct.faults.kind:
        case "label_flip":
            return with_labels_flipped(data, experiment.task.n_classes)
        case "backdoor":
            return poisoned(data, experiment, misconduct.faults, misconduct.rng(0))
        case _:
            return data
