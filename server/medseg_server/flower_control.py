"""Flower's own command line, for what only it can do: register nodes and start runs. The superlink is on loopback."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from medseg_core.errors import FlowerError
from medseg_core.supervision import program
from medseg_server.server_folder import ServerFolder

CONNECTION = "coordinator"
PATIENCE_S = 60.0
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
BUNDLE = {
    "project": {"name": "medseg", "version": "1.0.0", "license": "Apache-2.0", "dependencies": []},
    "tool": {
        "flwr": {
            "app": {
                "publisher": "medseg",
                "components": {
                    "serverapp": "medseg_server.app:app",
                    "clientapp": "medseg_client.relay:app",
                },
                "config": {"medseg-run": ""},
            }
        }
    },
}


class FlowerControl:
    """The superlink of one coordinator."""

    def __init__(self, folder: ServerFolder) -> None:
        self._folder, self._home = folder, folder.root / "flower" / "control"

    def prepare(self) -> None:
        """Write where the superlink is, and the bundle that names our installed modules: it holds no code."""
        self._home.mkdir(parents=True, exist_ok=True)
        connection = {
            "address": f"127.0.0.1:{self._folder.settings.superlink_port}",
            "root-certificates": str(self._folder.authority("crt").absolute()),
        }
        document = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
        (self._home / "config.toml").write_text(tomli_w.dumps(document))
        self._bundle.mkdir(parents=True, exist_ok=True)
        (self._bundle / "pyproject.toml").write_text(tomli_w.dumps(BUNDLE))

    @property
    def _bundle(self) -> Path:
        return self._folder.root / "flower" / "bundle"

    def nodes(self) -> dict[str, tuple[int, str]]:
        """Registered nodes by name: identifier and status. Raises FlowerError."""
        listed = self._call("supernode", "list", CONNECTION)["nodes"]
        return {node["name"]: (int(node["node-id"]), str(node["status"])) for node in listed}

    def register(self, site: str, node_key: str) -> None:
        """Let a site's node in. Raises FlowerError."""
        path = self._home / f"{site}.pub"
        path.write_text(node_key.strip() + "\n")
        self._call("supernode", "register", str(path), CONNECTION, "--name", site)

    def unregister(self, node: int) -> None:
        """Shut a node out for good: its key will never be accepted again. Raises FlowerError."""
        self._call("supernode", "unregister", str(node), CONNECTION)

    def start(self, run: str) -> str:
        """Start a Flower run that conducts our run; returns Flower's identifier. Raises FlowerError."""
        answer = self._call("run", str(self._bundle), CONNECTION, "--run-config", f'medseg-run="{run}"')
        return str(answer["run-id"])

    def _call(self, *words: str) -> Mapping[str, Any]:
        """One command with its answer in JSON. Raises FlowerError."""
        command = [program("flwr"), *words, "--format", "json"]
        environment = {**os.environ, **QUIET, "FLWR_HOME": str(self._home)}
        try:
            done = subprocess.run(  # noqa: S603
                command, env=environment, capture_output=True, timeout=PATIENCE_S, check=False
            )
            answer = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise FlowerError(words[0], type(error).__name__) from None
        if not isinstance(answer, dict) or not answer.get("success"):
            raise FlowerError(words[0], str(answer)[:300])
        return answer
