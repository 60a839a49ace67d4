"""Where virtual sites are computed, as the command line asks for it. Knows nothing of Ray itself."""

import os
import secrets
from dataclasses import dataclass


@dataclass(frozen=True)
class RayCluster:
    """Which Ray, and what one site takes of it."""

    address: str | None  # HOST:PORT of a cluster; None: this machine alone
    cpus_per_site: float
    gpus_per_site: float | None  # None: one where there are GPUs
    at_most: int | None = None  # sites at once

    @property
    def place(self) -> str:
        """For messages."""
        return f"at {self.address}" if self.address else "on this machine"


def prepare_environment(cluster: RayCluster) -> None:
    """Set what Ray reads from the environment, once, when it is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # Ray announces it as its default, in a warning
    # Ray's own is 15: beside other work, actors would not even start
    os.environ.setdefault("RAY_worker_niceness", "0")
    if cluster.address is None:  # Ray listens on all addresses of the machine: a token keeps others out
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
