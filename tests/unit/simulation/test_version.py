"""Version and commit: from git in a checkout, from a file in what was built, "unknown" elsewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import PROGRAMS, caller

import medseg_core
from medseg_core import version
from medseg_core.version import COMMIT_FILE, ask_git, commit, version_text

ROOT = Path(medseg_core.__file__).parents[1]


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """This module as if it lay in a folder that is no checkout."""
    package = tmp_path / "site-packages" / "medseg_core"
    package.mkdir(parents=True)
    monkeypatch.setattr(version, "__file__", str(package / "version.py"))
    return package


def test_a_checkout_asks_git(checkout):
    assert ask_git(checkout) == git(checkout, "rev-parse", "--short=12", "HEAD")


def test_a_changed_checkout_is_dirty(checkout):
    (checkout / "file").write_text("two")

    assert ask_git(checkout).endswith("-dirty")


def test_a_tag_does_not_hide_the_commit(checkout):
    git(checkout, "tag", "-a", "v1", "-m", "one")

    assert ask_git(checkout) == git(checkout, "rev-parse", "--short=12", "HEAD")


def test_a_folder_within_somebody_elses_checkout_is_not_asked(checkout):
    (checkout / "site-packages").mkdir()

    assert ask_git(checkout / "site-packages") == "unknown"


def test_without_git_the_commit_is_unknown(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")

    assert ask_git(checkout) == "unknown"


def test_a_checkout_without_commits_is_unknown(tmp_path):
    git(tmp_path, "init", "--quiet")

    assert ask_git(tmp_path) == "unknown"


def test_an_installed_package_reads_its_file(installed):
    (installed / COMMIT_FILE).write_text("0123456789ab\n")

    assert commit() == "0123456789ab"


def test_an_installed_package_without_a_file_is_unknown(installed):
    assert commit() == "unknown"


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_tells_the_version_with_the_commit(monkeypatch, capsys, program):
    outcome = caller(monkeypatch, capsys, program)("--version")

    assert outcome.code == 0
    assert outcome.out == f"{program} {version_text()}\n"
    assert re.search(
        rf"{re.escape(medseg_core.__version__)} \(commit ([0-9a-f]{{12}}(-dirty)?|unknown)\)", outcome.out
    )


def test_the_build_can_run_this_file_alone(tmp_path):
    """As hatch_build.py does: where no package is installed yet."""
    shutil.copy(ROOT / "medseg_core" / "version.py", tmp_path)
    question = "import runpy; print(runpy.run_path('version.py')['ask_git'](__import__('pathlib').Path('.')))"

    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", question], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert answer.stdout == "unknown\n"
