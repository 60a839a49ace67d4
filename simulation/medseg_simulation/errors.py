"""What goes wrong in simulations alone: presets, downloads, phantoms, partitions, sweeps."""

from collections.abc import Sequence
from pathlib import Path

from medseg_core.errors import ConfigError, DataError, StorageError


class UnknownPresetError(ConfigError):
    """No preset has that name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"there is no preset {name!r}. Known presets: {', '.join(known)}.")


class DifferentSweepError(StorageError):
    """The folder holds another sweep."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} holds another sweep (see its sweep.toml), so it cannot be resumed with this one. Give the sweep "
            "file of the first start, or choose another --out."
        )


class ChangedSweepError(StorageError):
    """The folder holds a cell of the same sweep file over another experiment or preset."""

    def __init__(self, folder: Path, cell: str) -> None:
        super().__init__(
            f"{folder}: {cell} was run with another experiment than the sweep now makes (see the experiment.toml "
            "there), so their results would be mixed. Give the experiment file or preset as it was at the first start, "
            "or choose another --out."
        )


class PartitionError(DataError):
    """The patients cannot be shared out among sites in the way that was asked."""

    def __init__(self, partition: str, fault: str, remedy: str) -> None:
        self.partition, self.fault, self.remedy = partition, fault, remedy
        super().__init__(f"partition {partition}: {fault}. {remedy}")


class FaultySitesError(ConfigError):
    """[simulation.faults] names sites that are not there, or more than there are."""

    def __init__(self, asked: str, known: Sequence[str]) -> None:
        super().__init__(
            f"[simulation.faults] sites asks for {asked}, but the sites are {', '.join(known)}. Name some of them, or "
            "give a number of at most that many."
        )


class UnteachableTargetError(ConfigError):
    """[simulation.faults] has a back door's target taught by a site that does not annotate it."""

    def __init__(self, label: str, site: str) -> None:
        super().__init__(
            f'[simulation.faults] target_label = "{label}", which {site} does not annotate: its training cannot teach '
            "it, and the attack would do nothing. Choose another target_label, or other sites."
        )


class AttendanceError(ConfigError):
    """[simulation.faults] keeps so many sites away that a round would fail."""

    def __init__(self, kind: str, round_number: int, away: Sequence[str], fault: str, remedy: str) -> None:
        super().__init__(
            f'[simulation.faults] kind = "{kind}" keeps {", ".join(away)} out of round {round_number}: {fault}. '
            f"{remedy}, or let fewer sites misbehave."
        )


class DownloadError(StorageError):
    """A public data set could not be fetched or unpacked."""

    def __init__(self, address: str, fault: str, remedy: str) -> None:
        self.address, self.fault, self.remedy = address, fault, remedy
        super().__init__(f"{address}: {fault}. {remedy}")


class PhantomSettingsError(ConfigError):
    """A phantom data set of this kind cannot be made."""

    def __init__(self, setting: str, got: object, expected: str) -> None:
        super().__init__(f"phantoms: {setting} is {got}, but must be {expected}.")
