"""torch's global generator, which dropout and initial weights draw from, for one user at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ONE_AT_A_TIME = threading.RLock()  # the generator belongs to the process, sites may train in threads


@contextmanager
def seeded_generator(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """The CPU's generator, and that of `device`, start from the seed; the CPU's and CUDA's are put back afterwards.

    Other threads that want it wait.
    """
    kind = device.type if device else "cpu"
    with _ONE_AT_A_TIME, torch.random.fork_rng([device] if device and kind == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator too
        if kind == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif kind == "mps":
            torch.mps.manual_seed(seed)
        yield
