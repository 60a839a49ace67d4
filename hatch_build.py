"""Writes the commit into what is built, so that an installed medseg can name it."""

import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGET = "medseg_core/_commit.txt"


class CommitHook(BuildHookInterface):
    """Adds `_commit.txt` to wheels and source archives; an editable install asks git when it is asked."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Hand the file over from outside the tree: a checkout must not keep a commit that it has left."""
        root = Path(self.root)
        if version == "editable" or (root / TARGET).exists():  # the latter: built from a source archive
            return
        ask_git = runpy.run_path(str(root / "medseg_core" / "version.py"))["ask_git"]
        self.beside = tempfile.TemporaryDirectory()  # removes itself when the build ends
        file = Path(self.beside.name) / "_commit.txt"
        file.write_text(ask_git(root) + "\n", encoding="ascii")
        build_data["force_include"][str(file)] = TARGET
