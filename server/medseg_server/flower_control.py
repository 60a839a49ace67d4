"""Flower's own command line, for what only it can do: register nodes and start runs. The superlink is on loopback."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from medseg_core.federation_errors import FlowerError
from medseg_core.files import write_atomic
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


@dataclass(frozen=True)
class Node:
    """What Flower says of a node: its identifier, and registered (never seen yet), online or offline."""

    identifier: int
    status: str


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

    def nodes(self) -> dict[str, Node]:
        """Registered nodes by node key. Raises FlowerError."""
        listed, noted = self._listed(), self._noted()
        return {key: Node(n, listed[n]) for key, n in noted.items() if n in listed}

    def register(self, site: str, node_key: str) -> None:
        """Let a site's node in. Raises FlowerError."""
        path = self._home / f"{site}.pub"
        path.write_text(node_key.strip() + "\n")
        try:
            node = int(self._call("supernode", "register", str(path), CONNECTION, "--name", site)["node-id"])
        except FlowerError:
            # a crash between registering and noting leaves one node in the list that nobody noted
            lost = set(self._listed()) - set(self._noted().values())
            if len(lost) != 1:
                raise
            (node,) = lost
        write_atomic(self._notes, json.dumps({**self._noted(), node_key: node}).encode())

    def unregister(self, node: int) -> None:
        """Shut a node out for good: its key will never be accepted again. Raises FlowerError."""
        self._call("supernode", "unregister", str(node), CONNECTION)

    def _listed(self) -> dict[int, str]:
        """Status of each node. Flower's list tells neither names nor keys. Raises FlowerError."""
        listed = self._call("supernode", "list", CONNECTION)["nodes"]
        found = {int(node["node-id"]): str(node["status"]) for node in listed}
        return {node: status for node, status in found.items() if status != "unregistered"}

    def _noted(self) -> dict[str, int]:
        """Which node has which key."""
        try:
            return {str(key): int(node) for key, node in json.loads(self._notes.read_bytes()).items()}
        except FileNotFoundError:
            return {}

    @property
    def _notes(self) -> Path:
        return self._folder.root / "flower" / "nodes.json"

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
