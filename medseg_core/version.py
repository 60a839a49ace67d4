"""Which medseg this is: version and commit. Standard library only: the build reads this file too."""

import subprocess
from pathlib import Path

COMMIT_FILE = "_commit.txt"  # written into wheels and source archives by hatch_build.py
_PATIENCE_S = (
    2.0  # git answers in hundredths of a second; on a sick network drive it must not hold --version up
)


def version_text() -> str:
    """Version and commit for people: `0.1.0 (commit 5d1f0df9a3c4)`."""
    from medseg_core import __version__  # here: the build reads this file without the package

    return f"{__version__} (commit {commit()})"


def commit() -> str:
    """The commit that this package was built from, `-dirty` if files differed from it; "unknown" where nobody knows."""
    package = Path(__file__).parent
    try:
        return (package / COMMIT_FILE).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ask_git(package.parent)


def ask_git(root: Path) -> str:
    """The commit of the checkout at `root`; "unknown" where that is no checkout or git does not answer."""
    if not (root / ".git").exists():  # an installed package may lie in somebody else's checkout
        return "unknown"
    question = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip() or "unknown"
