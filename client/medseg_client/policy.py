"""What a hospital allows: the `[policy]` of site.toml, checked before any work is done for a request.

It can only narrow what an experiment asks. Each rule that refuses has a code, which leaves, and a sentence for the log.
"""

from typing import Annotated, Literal

from pydantic import Field

from medseg_core.config import AlgorithmName, Experiment, NetworkName, PositiveFloat, PositiveInt, Section
from medseg_core.errors import PolicyError, SimulatedFaultsError, WireError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.header import Kind, Name, Split

Statistic = Literal["training", "validation", "test", "site"]


class Policy(Section):
    """`[policy]`: site.toml explains every key to the people who edit it; here stands where its default comes from."""

    approve_tasks: tuple[Name, ...] = ()  # nothing is agreed to unless somebody did
    networks: tuple[NetworkName, ...] = ("unet", "dynunet", "attention_unet", "segresnet", "cnn3d")
    algorithms: tuple[AlgorithmName, ...] = ("fedavg", "fedprox")
    max_parameters: PositiveInt = 50_000_000  # nnU-Net's full resolution networks have 31 million
    min_patients_update: PositiveInt = 5  # a usual floor for small cells in health statistics
    min_patients_score: PositiveInt = 5
    max_update_norm: PositiveFloat | None = None  # a good value depends on the task: see a ledger of it
    statistics: tuple[Statistic, ...] = ("training", "validation", "test", "site")  # what a report is made of
    max_message_mb: PositiveFloat = 256.0  # 50 million float32 numbers are 200 MB
    max_rounds: PositiveInt = 2000  # ten runs of 200 rounds
    max_evaluations: PositiveInt = 2000  # one a round
    max_describes: PositiveInt = 200  # one whenever a run begins or resumes
    keep_payloads_days: Annotated[int, Field(ge=0)] = 7  # 100 rounds of a 5 MB update are 0.5 GB

    def require_experiment(self, experiment: Experiment, n_numbers: int) -> None:
        """Network, algorithm and size, the numbers that travel, are among those allowed, and no fault is asked for.

        Raises PolicyError, WireError.
        """
        if experiment.simulation.faults is not None:
            raise WireError(RefusalCode.ALGORITHM_NOT_ALLOWED, str(SimulatedFaultsError()))
        network, algorithm = experiment.model.name, experiment.federation.algorithm
        if network not in self.networks:
            code = RefusalCode.ALGORITHM_NOT_ALLOWED
            raise PolicyError(code, "networks", f"the network is {network}", list(self.networks))
        if algorithm not in self.algorithms:
            code = RefusalCode.ALGORITHM_NOT_ALLOWED
            raise PolicyError(code, "algorithms", f"the algorithm is {algorithm}", list(self.algorithms))
        if algorithm == "scaffold" and self.max_update_norm is not None:
            code = RefusalCode.ALGORITHM_NOT_ALLOWED
            asked = "the algorithm is scaffold, whose control variates tell what the scaled update does not"
            raise PolicyError(code, "max_update_norm", asked, self.max_update_norm)
        if n_numbers > self.max_parameters:
            asked = f"the network has {n_numbers:,} numbers"
            raise PolicyError(RefusalCode.MODEL_TOO_LARGE, "max_parameters", asked, self.max_parameters)

    def require_statistics(self, split: Split) -> None:
        """The scores that are asked for may leave. Raises PolicyError."""
        if split not in self.statistics:
            asked = f"{split} scores are asked for"
            raise PolicyError(RefusalCode.NOT_RELEASED, "statistics", asked, list(self.statistics))

    def require_patients(self, kind: Kind, n_patients: int) -> None:
        """An answer of a kind rests on enough patients, or on none. Raises PolicyError.

        `n_patients` are those that the answer tells of; a description tells of those that training would use.
        """
        key = "min_patients_score" if kind == "evaluate" else "min_patients_update"
        least: int = getattr(self, key)
        if 0 < n_patients < least:
            asked = f"{kind} of {n_patients} patients is asked for"
            raise PolicyError(RefusalCode.TOO_FEW_PATIENTS, key, asked, least)

    def require_size(self, n_bytes: int) -> None:
        """A message is small enough to leave. Raises PolicyError."""
        if n_bytes > self.max_message_mb * 1e6:
            asked = f"the answer has {n_bytes / 1e6:.1f} MB"
            raise PolicyError(RefusalCode.MODEL_TOO_LARGE, "max_message_mb", asked, self.max_message_mb)
