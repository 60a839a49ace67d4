"""Whether this machine and its images are fit for training: data, device, memory, disk, users."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from medseg_client.accounts import find_accounts, images_of, leaks
from medseg_client.findings import Finding, fault, ok, warning
from medseg_client.site_folder import SiteFolder
from medseg_core.config import Experiment, Task
from medseg_core.errors import (
    DataError,
    DeviceError,
    ExperimentFileError,
    MedsegError,
    TooFewPatientsError,
    WireError,
)

GIB = 1 << 30
MEMORY_LEAST, MEMORY_GOOD = 2 * GIB, 8 * GIB  # a small 3D network with its patches; a usual one
DISK_LEAST, DISK_GOOD = 2 * GIB, 20 * GIB  # prepared images are some times as large as compressed files
SHARED_GOOD = GIB // 16  # what a container has unless it is given more
_SHARED = Path("/dev/shm")  # noqa: S108
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_RULES = "Add patients, or change [policy] in site.toml and restart."


def check_data(folder: SiteFolder, experiments: Iterable[Experiment]) -> Iterator[Finding]:
    """Every case opened and held against the task of every experiment; without one, opened only."""
    from medseg_core.cohort.checks import check_cohort  # SimpleITK: only when needed
    from medseg_core.cohort.manifest import read_cohort
    from medseg_core.cohort.split import split_cases

    settings, tasks = folder.settings, list[Task | None]()
    for experiment in experiments:
        tasks += [experiment.task] if experiment.task not in tasks else []
    if not tasks:
        remedy = "Name one with --experiment FILE, or approve one."
        yield warning("data", "no experiment is approved yet: labels and channels were not checked", remedy)
    for task in tasks or [None]:
        topic = f"data for {task.name}" if task else "data"
        try:
            here = settings.task_here(task) if task else None
            cohort = read_cohort(folder.root / settings.data, here)
            report = check_cohort(cohort, here)
            split_cases(cohort.cases, site=settings.name, seed=0)
        except TooFewPatientsError:
            text = "there are too few patients to train, validate and test with: 3 are needed"
            yield fault(topic, text, "Add patients.")
            continue
        except ExperimentFileError as error:
            text = "what site.toml says of this task's labels does not fit the task"
            yield fault(topic, text, "Correct labels in site.toml.", detail=str(error))
            continue
        except DataError as error:
            remedy = "Correct the list of cases; `medseg-site check` says here what is wrong with it."
            yield fault(topic, "the list of cases cannot be used", remedy, detail=str(error))
            continue
        if report.is_sound:
            yield ok(topic, f"{report.n_cases} cases, {len(report.warnings)} warnings")
        else:
            kinds = Counter(type(error).__name__.removesuffix("Error") for error in report.faults)
            counted = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))
            faulty = len({error.case_id for error in report.faults})
            remedy = "Mend the cases or take them out of the list; `medseg-site check` names them here."
            text = f"{faulty} of {report.n_cases} cases have faults ({counted})"
            yield fault(topic, text, remedy, detail="\n".join(map(str, report.faults)))


def check_rules(folder: SiteFolder, experiments: Iterable[Experiment]) -> Iterator[Finding]:
    """This site's own rules let each experiment in, and what its cases would answer out.

    Says nothing of cases that cannot be read or split: `check_data` does.
    """
    from medseg_core.cohort.manifest import read_cohort
    from medseg_core.cohort.split import split_cases
    from medseg_core.federation.shared_tensors import count_numbers  # torch: only when needed

    settings = folder.settings
    policy = settings.policy
    for experiment in experiments:
        topic = f"rules for {experiment.task.name}"
        try:
            policy.require_experiment(experiment, count_numbers(experiment)[0])
        except WireError as error:
            yield fault(
                topic, f"this site would refuse it: {error.detail}", "It is this hospital's own rule."
            )
            continue
        try:
            cohort = read_cohort(folder.root / settings.data, settings.task_here(experiment.task))
            split = split_cases(cohort.cases, site=settings.name, seed=experiment.federation.seed)
        except (DataError, ExperimentFileError):
            continue
        n_train, n_validation, n_test = (
            len({case.patient_id for case in cases}) for cases in (split.train, split.validation, split.test)
        )
        counted = f"of your patients {n_train} train, {n_validation} validate, {n_test} test"
        if n_train < policy.min_patients_update:
            least = f"an update rests on at least {policy.min_patients_update} (min_patients_update)"
            yield fault(topic, f"{counted}, and {least}", _RULES)
        elif n_validation < policy.min_patients_score or n_test < policy.min_patients_score:
            least = f"a score rests on at least {policy.min_patients_score} (min_patients_score)"
            text = f"{counted}, and {least}: this site trains, and scores of fewer stay here"
            remedy = "A run needs a validation and a test score of one site at least."
            yield warning(topic, text, f"{remedy} {_RULES}")
        else:
            yield ok(topic, counted)


def check_machine(folder: SiteFolder) -> Iterator[Finding]:
    """Device, memory, disk, and who may read what."""
    yield _device(folder.settings.device)
    memory = within_container(psutil.virtual_memory().available)
    yield _amount(
        "memory", memory, MEMORY_LEAST, MEMORY_GOOD, "Close other programs, or give it more memory."
    )
    if _SHARED.is_dir():
        remedy = "Give the container more, such as --shm-size 1g."
        yield _amount("shared memory", psutil.disk_usage(str(_SHARED)).free, 0, SHARED_GOOD, remedy)
    free = psutil.disk_usage(str(folder.root)).free
    yield _amount("disk", free, DISK_LEAST, DISK_GOOD, "Free space where the site's folder lies, or move it.")
    yield _separation(folder)


def _device(wanted: str) -> Finding:
    import torch  # seconds: only when needed

    from medseg_core.learning.device import choose_device

    try:
        device = choose_device(wanted)
        torch.ones(8, 8, device=device).sum().item()
    except DeviceError:
        return fault("device", f"device {wanted} is not on this machine", "Correct `device` in site.toml.")
    except RuntimeError:
        remedy = 'Update the driver, or set device = "cpu" in site.toml.'
        return fault("device", f"{wanted} is there and cannot compute", remedy)
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return ok("device", f"{facts.name}, {facts.total_memory / GIB:.0f} GiB")
    if wanted == "auto" and device.type == "cpu":
        remedy = (
            'Install the driver and a build of torch for it, or set device = "cpu" to have this said no more.'
        )
        return warning("device", "no GPU was found: training runs on the CPU", remedy)
    return ok("device", device.type)


def within_container(n_bytes: int) -> int:
    """Memory that can be used, also where a container is allowed less than the machine has."""
    try:
        return min(n_bytes, int(_CGROUP.read_text()))
    except (OSError, ValueError):
        return n_bytes


def _amount(topic: str, found: int, least: int, good: int, remedy: str) -> Finding:
    text = f"{found / GIB:.1f} GiB free"
    if found < least:
        return fault(topic, f"{text}, at least {least / GIB:.0f} GiB are needed", remedy)
    if found < good:
        return warning(topic, f"{text}, {good / GIB:.2g} GiB are recommended", remedy)
    return ok(topic, text)


def _separation(folder: SiteFolder) -> Finding:
    """Whether code from outside, which runs in the relay, can read images: then no file right stands between them."""
    topic = "separation of trainer and relay"
    if folder.settings.accounts is not None:
        return _separation_by_accounts(folder, topic)
    if os.access(images_of(folder), os.R_OK) and os.access(folder.key("node"), os.R_OK):
        return warning(
            topic,
            "weaker: this account reads the images and holds the keys to the network",
            "Run trainer and relay as two users ([accounts] in site.toml), or in two containers.",
        )
    return ok(topic, "this account does not both read the images and hold the keys to the network")


def _separation_by_accounts(folder: SiteFolder, topic: str) -> Finding:
    """What the accounts can read is tried, as each of them; only root can."""
    if os.geteuid() != 0:
        text = "site.toml names accounts, and what they can read was not tried"
        return warning(topic, text, "Run `medseg-site check` as root.")
    assert folder.settings.accounts is not None
    try:
        accounts = find_accounts(folder.settings.accounts)
        found = [f"{account.name} can read {path}" for account, path in leaks(folder, accounts)]
    except MedsegError as error:
        text = "the accounts that site.toml names cannot be used"
        return fault(topic, text, "`medseg-site check` says here why.", detail=str(error))
    if found:
        text = f"{len(found)} files or folders can be read by an account that must not"
        remedy = (
            "Start `medseg-site up` as root, which closes its own; `medseg-site check` names the rest here."
        )
        return fault(topic, text, remedy, detail="\n".join(found))
    return ok(topic, "three accounts; none can read what is another's, trainer and relay have no network")
