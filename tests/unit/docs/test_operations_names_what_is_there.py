"""The page on operations: every command, option, service, variable and file that it names is there."""

import itertools
import os
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer.main
import yaml
from documents import ROOT, blocks

from medseg_client.cli import app as site_app
from medseg_server.cli import app as server_app

PAGE = ROOT / "docs/operations.md"
TEXT = PAGE.read_text(encoding="utf-8")
DEPLOY = ROOT / "deploy"
COMPOSE = Path(sysconfig.get_path("scripts")) / "docker-compose"
PROGRAMS = {
    "medseg-site": typer.main.get_command(site_app),
    "medseg-server": typer.main.get_command(server_app),
}
ENTRIES = {"site": "medseg-site", "server": "medseg-server"}  # what an image starts
WITH_A_VALUE = {"--entrypoint", "--tail", "-f"}  # options of compose

pytestmark = pytest.mark.skipif(os.name != "posix", reason="deployments are for Linux")


def calls() -> Iterator[tuple[str, list[str]]]:
    """(where it is given, words) of each command: lines with `&&` are two, redirections are left out."""
    for block in blocks(PAGE, "sh"):
        for place, words in itertools.product(block.marks, block.commands):
            for is_between, part in itertools.groupby(words, lambda word: word == "&&"):
                if not is_between:
                    yield place, list(itertools.takewhile(lambda word: word not in "<>", part))


CALLS = [pytest.param(place, words, id=f"{place}: {' '.join(words)}"[:90]) for place, words in calls()]
ON_COMPOSE = [case for case in CALLS if case.values[1][:2] == ["docker", "compose"]]


@cache
def options_of(command: str) -> set[str]:
    shown = subprocess.run([COMPOSE, command, "--help"], text=True, capture_output=True, check=True).stdout
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", shown))


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Options with their values, and what follows them."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in WITH_A_VALUE else 1
    return words[:at], words[at:]


def require_ours(program: str, words: list[str]) -> None:
    """A command of ours takes these words."""
    command: click.Command = PROGRAMS[Path(program).name]
    while isinstance(command, click.Group):
        if command.name == "ledger" and words[0] not in command.commands:
            words = ["show", *words]
        command, words = command.commands[words[0]], words[1:]
    command.make_context(program, list(words))  # raises where an option or a value is not there


@pytest.mark.parametrize(("place", "words"), ON_COMPOSE)
def test_compose_takes_the_words_and_has_the_service(place: str, words: list[str]) -> None:
    files, (command, *rest) = split(words[2:])
    options, rest = split(rest)
    services = yaml.safe_load((DEPLOY / place / "compose.yaml").read_text())["services"]

    for name in files[1::2]:
        assert (DEPLOY / place / name).is_file()
    assert {word for word in options if word.startswith("-")} <= options_of(command)
    if command in ("stop", "logs", "restart"):
        assert set(rest) <= set(services)
    if command not in ("run", "exec"):
        return
    service, *inside = rest
    assert service in services
    if command == "run" and "--entrypoint" not in options:
        require_ours(ENTRIES[place], inside)
    elif inside and inside[0] in PROGRAMS:
        require_ours(inside[0], inside[1:])


@pytest.mark.parametrize(("place", "words"), [case for case in CALLS if case not in ON_COMPOSE])
def test_another_command_names_what_is_there(place: str, words: list[str]) -> None:
    program, *rest = words
    if Path(program).name in PROGRAMS:
        require_ours(program, rest)
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "cp":
        folder = DEPLOY / place if place in ENTRIES else ROOT
        assert all(list(folder.glob(name)) for name in rest[:-1])
    elif program == "kubectl" and "-f" in rest:
        assert (DEPLOY / place / rest[-1]).is_file()


def test_every_variable_that_the_page_names_is_explained() -> None:
    explained = "".join(path.read_text() for path in DEPLOY.glob("*/.env.example"))
    known = set(re.findall(r"^(\w+)=", explained, re.MULTILINE))
    named = set(re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", TEXT))

    assert named - known == {"COMPOSE_FILE", "TORCH_INDEX"}  # compose's own; the Makefile's


def test_every_file_that_the_page_names_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT)
    named = re.findall(r"`(deploy/[\w./-]+)`", TEXT)

    assert [name for name in links if not (PAGE.parent / name).exists()] == []
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_account_and_unit_that_the_page_names_is_there() -> None:
    accounts = (DEPLOY / "systemd/medseg.sysusers.conf").read_text()

    for name in set(re.findall(r"(?:-o|-u|chown(?: -R)?) (medseg-\w+)", TEXT)) - {"medseg-site"}:
        assert re.search(rf"^u {name} ", accounts, re.MULTILINE), name
    for unit in re.findall(r"\b(medseg-[\w-]+\.(?:service|target))\b", TEXT):
        assert (DEPLOY / "systemd" / unit).is_file()
