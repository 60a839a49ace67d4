"""Reads the fenced blocks of a Markdown file, for tests that hold documents to what they say."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDE, README = ROOT / "docs/researcher.md", ROOT / "README.md"
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the words behind it, and its lines."""

    language: str
    marks: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def commands(self) -> list[list[str]]:
        """The words of each line that is a command; comments left out."""
        words = [shlex.split(line, comments=True) for line in self.lines]
        return [command for command in words if command]


def blocks(path: Path, language: str = "") -> list[Block]:
    """The blocks of a document in order, of one language or all."""
    found = _FENCE.findall(path.read_text(encoding="utf-8"))
    read = [Block(name, tuple(marks.split()), tuple(text.splitlines())) for name, marks, text in found]
    return [block for block in read if language in ("", block.language)]
