"""Where every random number of an experiment comes from: one function."""

import hashlib
from typing import Literal

Purpose = Literal[
    "initial_weights",
    "split",
    "partition",
    "participants",
    "order",
    "patch",
    "augmentation",
    "dropout",
    "bootstrap",
    "phantom",
    "fault",
    "fine_tuning",
    "scanner",
]


def derive_seed(experiment_seed: int, *, site: str = "", round_number: int = 0, purpose: Purpose) -> int:
    """Independent 63-bit seed for one purpose at one site in one round; equal inputs give equal seeds everywhere."""
    text = f"{experiment_seed}|{site}|{round_number}|{purpose}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
