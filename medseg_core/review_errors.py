"""What keeps cases from being looked at: folders of predictions, files of scores, the page's port."""

from pathlib import Path

from medseg_core.errors import ConfigError, StorageError


class PredictionFolderError(StorageError):
    """A folder of predictions cannot be used."""

    def __init__(self, folder: Path, fault: str, remedy: str) -> None:
        self.folder = folder
        super().__init__(f"predictions {folder}: {fault}. {remedy}.")


class ScoresFileError(StorageError):
    """A file is not what `evaluate` writes."""

    def __init__(self, path: Path, fault: str) -> None:
        self.path = path
        super().__init__(f"scores {path}: {fault}. Give the file that medseg-site evaluate --out wrote.")


class PortInUseError(ConfigError):
    """The page cannot wait at the port that was asked for."""

    def __init__(self, port: int, reason: str) -> None:
        self.port = port
        super().__init__(
            f"--port {port}: 127.0.0.1:{port} cannot be used ({reason}). Leave --port away for a free one."
        )
