"""Which device trains, chosen at run time."""

import ctypes

import torch

from medseg_core.errors import DeviceError


def choose_device(wanted: str = "auto") -> torch.device:
    """`auto`: CUDA, else Apple's MPS, else the CPU; otherwise the device named. Raises DeviceError.

    On a CPU the process keeps, from then on, the memory that tensors free.
    """
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
    if device.type == "cpu":
        keep_freed_memory()
    return device


def keep_freed_memory() -> None:
    """Have the C library keep what tensors free, for the next ones: to be called before threads are started.

    It gives large ones back to the system otherwise, which hands them out again page by page: a quarter of the time of
    a training step with tensors of 80 MB. Threads share one arena, since theirs cannot hold such tensors. Does nothing
    where the library is not glibc. Source: mallopt(3). See `return_freed_memory`.
    """
    mmap_threshold, trim_threshold, arena_max = -3, -1, -8  # their numbers in malloc.h
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(arena_max, 1)


def return_freed_memory() -> None:
    """Give back to the system what was kept, at the end of a round: nobody needs it until the next."""
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)
