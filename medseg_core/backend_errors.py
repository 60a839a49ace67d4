"""What goes wrong between a simulation and the machines that compute it."""

from pathlib import Path

from medseg_core.errors import ConfigError, RunError, StorageError


class BackendError(ConfigError):
    """Options of `run` do not go together, or ask for what is not there: `OPTION: FAULT. REMEDY.`."""

    def __init__(self, option: str, fault: str, remedy: str) -> None:
        super().__init__(f"{option}: {fault}. {remedy}.")


class MissingRayError(ConfigError):
    """Ray is an extra, and is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "--backend ray: Ray is not installed. Install it in the folder of the source with "
            "pip install --constraint constraints.txt '.[simulation,ray]', or leave --backend away."
        )


class RayClusterError(RunError):
    """Ray cannot be started or reached, or starts no actor; `fault` ends as a clause."""

    def __init__(self, address: str, fault: str, remedy: str) -> None:
        super().__init__(f"Ray {address}: {fault}. {remedy}.")


class LostActorError(RunError):
    """The Ray actors that were asked for one site all died."""

    def __init__(self, site: str, deaths: int, cause: str) -> None:
        super().__init__(
            f"site {site}: {deaths} Ray actors died on the same request, the last one with: {cause}. Where memory "
            "ran out, use a smaller batch_size or patch_size, or raise --cpus-per-site so that fewer actors share a "
            "machine; then go on with --resume."
        )


class UnreachableStorageError(StorageError):
    """A Ray actor does not see a file of the run, the cache or the data."""

    def __init__(self, path: Path, node: str) -> None:
        super().__init__(
            f"a Ray actor on node {node} cannot read {path}. In a cluster, --data, --out and --cache must lie on "
            "storage that every node reaches under the same path: choose such folders and start again."
        )
