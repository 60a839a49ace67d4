"""The coordinator's folder: keys, roster, runs. Read at the edge of each process."""

import json
from dataclasses import dataclass
from pathlib import Path

from medseg_core.config import read_experiment
from medseg_core.wire.signatures import load_key, public_key_of
from medseg_server.requests import Coordinator
from medseg_server.run import Run
from medseg_server.run_store import RunStore
from medseg_server.transport import Transport


@dataclass(frozen=True)
class ServerFolder:
    """Where a coordinator keeps what."""

    root: Path

    def run(self, name: str) -> Path:
        """Folder of a run."""
        return self.root / "runs" / name

    def roster(self) -> dict[str, str]:
        """Public signing key of each enrolled site, as text."""
        return dict(json.loads((self.root / "roster.json").read_text()))

    def enrolled(self) -> tuple[str, ...]:
        """Sites that may take part, in alphabetical order."""
        return tuple(sorted(self.roster()))

    def open_run(self, name: str, transport: Transport) -> Run:
        """A run that was begun, to go on with."""
        store = RunStore(self.run(name))
        experiment = read_experiment(store.folder / "experiment.toml")
        keys = {site: public_key_of(text) for site, text in self.roster().items()}
        coordinator = Coordinator(load_key(self.root / "keys" / "signing.key"), keys)
        return Run(name, experiment, coordinator, transport, store)
