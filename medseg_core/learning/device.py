"""Which device trains, chosen at run time."""

import torch

from medseg_core.errors import DeviceError


def choose_device(wanted: str = "auto") -> torch.device:
    """`auto`: CUDA, else Apple's MPS, else the CPU; otherwise the device named. Raises DeviceError."""
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if wanted == "auto":
        return torch.device(available[0])
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise DeviceError(wanted, available) from None
    n_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type not in available or (device.index or 0) >= n_devices:
        raise DeviceError(wanted, available)
    return device
