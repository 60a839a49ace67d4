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


class DownloadError(StorageError):
    """A public data set could not be fetched or unpacked."""

    def __init__(self, address: str, fault: str, remedy: str) -> None:
        self.address, self.fault, self.remedy = address, fault, remedy
        super().__init__(f"{address}: {fault}. {remedy}")


class PhantomSettingsError(ConfigError):
    """A phantom data set of this kind cannot be made."""

    def __init__(self, setting: str, got: object, expected: str) -> None:
        super().__init__(f"phantoms: {setting} is {got}, but must be {expected}.")
