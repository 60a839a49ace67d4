"""What a site tells, with the test, of the cases that the model is for: moments, as far as asked for and allowed."""

from torch import nn

from medseg_client.egress import EgressGuard
from medseg_client.site_data import SiteData, count_patients
from medseg_core.config import Experiment
from medseg_core.learning.scope import moments_of_training, moments_of_validation, to_figures
from medseg_core.wire.header import SCOPE_WANTED, Header

SCOPE_FILE = "scope.json"  # beside the stored answer to the test: what was told


def scope_patients(data: SiteData) -> tuple[int, int]:
    """Patients of training and validation, whom the moments are of."""
    return count_patients(data.train), count_patients(data.validation)


def scope_told(
    request: Header, guard: EgressGuard, network: nn.Module, data: SiteData, experiment: Experiment
) -> dict[str, float | None]:
    """Moments of training cases and of the model's uncertainty on validation, as figures."""
    if not request.counts.get(SCOPE_WANTED):
        return {}
    training, validation = guard.scope_allowed(*scope_patients(data))
    fewest = guard.fewest_in_figures
    moments = moments_of_training(data.train, fewest_patients=fewest) if training else {}
    if validation:
        moments |= moments_of_validation(network, data.validation, experiment)
    return to_figures(moments)
