"""Which device trains, chosen at run time, and on how many cores."""

import ctypes
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from medseg_core.errors import DeviceError

CGROUPS = Path("/sys/fs/cgroup")  # as a container sees its own


def choose_device(wanted: str = "auto") -> torch.device:
    """`auto`: CUDA, else Apple's MPS, else the CPU; otherwise the device named. Raises DeviceError."""
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    try:
        device = torch.device(available[0] if wanted == "auto" else wanted)
    except RuntimeError:
        raise DeviceError(wanted, available) from None
    n_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type not in available or (device.index or 0) >= n_devices:
        raise DeviceError(wanted, available)
    return device


def usable_cores() -> int:
    """Processor cores that this process may use: no more than a container's quota gives it time on."""
    if sys.platform not in ("linux", "win32"):
        return os.cpu_count() or 1
    return max(1, math.ceil(min(len(psutil.Process().cpu_affinity()), _quota())))


def _quota() -> float:
    """How many cores' time the container may use (`docker run --cpus`, a limit of Kubernetes); or infinity.

    Source: the kernel's documentation of control groups, `cpu.max` in version 2, `cpu.cfs_quota_us` in version 1.
    """
    version_1 = [CGROUPS / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    for files in ([CGROUPS / "cpu.max"], version_1):
        if all(file.exists() for file in files):
            with suppress(OSError, ValueError, ZeroDivisionError):  # as nobody writes it: no reason to end
                quota, period = " ".join(file.read_text() for file in files).split()
                return int(quota) / int(period) if quota.isdecimal() else math.inf  # or "max", or -1
    return math.inf


def keep_freed_memory() -> None:
    """Have the C library keep what tensors free, for the next ones: for a process that trains one model on a CPU.

    It gives large ones back to the system otherwise, which hands them out again page by page: a quarter of the time of
    a training step with tensors of 80 MB. To be called before threads are started: they share one arena then, since
    theirs cannot hold such tensors. Where two train side by side it gained nothing. Does nothing where the library is
    not glibc. Source: mallopt(3). See `return_freed_memory`.
    """
    mmap_threshold, trim_threshold, arena_max = -3, -1, -8  # their numbers in malloc.h
    mallopt = _of_c_library("mallopt")
    # An older glibc grants no more than 32 MiB. Either alone would end that the library adapts both by itself.
    if mallopt and (mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)):
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(arena_max, 1)


def return_freed_memory() -> None:
    """Give back to the system what was kept, where nothing is to be done for a while."""
    if malloc_trim := _of_c_library("malloc_trim"):
        malloc_trim(0)


def _of_c_library(name: str) -> Any:
    """A function of the C library that this process runs with; None where it has none, or cannot be asked."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except TypeError:  # Windows
        return None
