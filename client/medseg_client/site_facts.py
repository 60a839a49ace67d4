"""What this site tells of itself, where its policy lets it: machine, software, medians over its cases, limits."""

from collections.abc import Sequence
from statistics import median
from typing import get_args

import psutil
import torch

import medseg_core
from medseg_client.egress import EgressGuard
from medseg_client.machine_check import GIB, within_container
from medseg_client.policy import Policy
from medseg_client.site_data import SiteData, count_patients
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.learning.device import usable_cores
from medseg_core.wire.site_facts import Released, SiteFacts, version_parts


def facts_as_scalars(
    data: SiteData, device: torch.device, guard: EgressGuard, task: str
) -> dict[str, float | None]:
    """What a description tells beside its counts; nothing of a simulated site, which has no policy."""
    if guard.policy is None:
        return {}
    cases = (*data.train, *data.validation, *data.test)
    left = {"rounds_left": guard.budget_left("train", task)}
    left |= {"evaluations_left": guard.budget_left("evaluate", task)}
    return tell_facts(device, cases, guard.policy, **left).to_scalars()


def tell_facts(
    device: torch.device,
    cases: Sequence[PreprocessedCase],
    policy: Policy,
    *,
    rounds_left: int,
    evaluations_left: int,
) -> SiteFacts:
    """The facts of this site. Medians over cases of fewer patients than a score needs are not told."""
    told = cases if count_patients(cases) >= policy.min_patients_score else ()
    spacings = [c.original.spacing_mm for c in told if c.original.spacing_mm is not None]
    return SiteFacts(
        medseg=version_parts(medseg_core.__version__),
        torch=version_parts(torch.__version__),
        device="cuda" if device.type == "cuda" else "mps" if device.type == "mps" else "cpu",
        memory_gib=round(_memory_bytes(device) / GIB),
        cpu_threads=usable_cores(),
        spacing_mm=tuple(round(float(median(axis)), 2) for axis in zip(*spacings, strict=True)),
        size_voxels=tuple(int(median(axis)) for axis in zip(*(c.original.shape for c in told), strict=True)),
        rounds_left=rounds_left,
        evaluations_left=evaluations_left,
        min_patients_update=policy.min_patients_update,
        min_patients_score=policy.min_patients_score,
        max_parameters=policy.max_parameters,
        max_update_norm=policy.max_update_norm,
        released=tuple(name for name in get_args(Released) if name in policy.statistics),
    )


def _memory_bytes(device: torch.device) -> int:
    """Of the GPU; else of the machine, or of what a container may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return within_container(psutil.virtual_memory().total)
