"""Commands and options: each has help, stands in the guide, and no document asks for one that is not there."""

import re

import click
import pytest
import typer.main
from documents import GUIDE, README, ROOT, blocks

from medseg_client.cli import app as site_app
from medseg_core.assessment.metrics import METRICS
from medseg_core.imaging.io import VOLUME_SUFFIXES
from medseg_server.cli import app as server_app
from medseg_simulation.cli import app

ROOT_COMMAND = typer.main.get_command(app)
OTHERS = {
    "medseg-server": typer.main.get_command(server_app),
    "medseg-site": typer.main.get_command(site_app),
}
PAGES = {name: ROOT / f"docs/{name}.md" for name in ("coordinator", "hospital", "security")} | {
    "readme": README
}
COMMANDS = ROOT_COMMAND.commands
PARAMETERS = {
    f"{name} {parameter.name}": parameter
    for name, command in {"": ROOT_COMMAND, **COMMANDS}.items()
    for parameter in command.params
}
DOCUMENTS = {"guide": GUIDE, "readme": README}


def documented_calls():
    """Every `medseg-simulate ...` in a block of a document."""
    for name, path in DOCUMENTS.items():
        for block in blocks(path, "sh"):
            for program, *words in block.commands:
                if program == "medseg-simulate":
                    yield pytest.param(words, id=f"{name}: {' '.join(words)}"[:60])


def makefile_targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does(name):
    assert COMMANDS[name].help.strip().endswith(".")


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_option_says_what_it_does(name):
    assert PARAMETERS[name].help.strip().endswith(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_guide_shows_a_call_of_the_command(name):
    assert name in {words[0] for b in blocks(GUIDE, "sh") for _, *words in b.commands if words}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_guide_names_the_option(name):
    parameter = PARAMETERS[name]
    if isinstance(parameter, click.Option):
        assert re.search(rf"(?<![\w-]){parameter.opts[0]}(?![\w-])", GUIDE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("words", list(documented_calls()))
def test_what_a_document_calls_is_there(words):
    if words == ["--version"]:
        return
    command = ROOT_COMMAND.commands[words[0]]
    command.make_context(words[0], list(words[1:]))  # raises where an option or a value is not there


@pytest.mark.parametrize("path", DOCUMENTS.values(), ids=DOCUMENTS)
def test_what_a_document_makes_is_there(path):
    made = {words[1] for block in blocks(path, "sh") for words in block.commands if words[0] == "make"}

    assert made
    assert made <= makefile_targets()


def commands_of(group):
    """Every command of a program, with those of its groups."""
    for command in group.commands.values():
        yield from commands_of(command) if isinstance(command, click.Group) else [command]


@pytest.mark.parametrize("program", OTHERS)
def test_commands_and_options_of_a_federation_say_what_they_do(program):
    for command in commands_of(OTHERS[program]):
        assert command.help, command.name
        for parameter in command.params:
            assert parameter.help, f"{command.name} {parameter.name}"


@pytest.mark.parametrize("path", PAGES.values(), ids=PAGES)
def test_what_a_page_calls_in_a_federation_is_there(path):
    for block in blocks(path, "sh"):
        for program, *words in block.commands:
            command = OTHERS.get(program)
            while isinstance(command, click.Group):
                command, words = command.commands[words[0]], words[1:]
            if command is not None:
                command.make_context(program, list(words))  # raises where an option or a value is not there


@pytest.mark.parametrize("path", (DOCUMENTS | PAGES).values(), ids=DOCUMENTS | PAGES)
def test_every_option_that_a_document_names_is_one(path):
    text = path.read_text(encoding="utf-8")
    foreign = {
        "--constraint",
        "--help",
        "--logdir",
        "--config_file",
        "--bundle_root",
        "--dataset_dir",
        "--output_dir",
        *("--codec", "--kills", "--millions", "--passes", "--steps", "--turns"),  # of benchmarks
        *("--head", "--port", "--address"),  # of ray start
        *("--system", "--no-create-home", "--user-group", "--shell"),  # of useradd
    }

    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) - foreign

    federation = [p for group in OTHERS.values() for command in commands_of(group) for p in command.params]
    assert named <= {option for parameter in (*PARAMETERS.values(), *federation) for option in parameter.opts}


@pytest.mark.parametrize("path", (DOCUMENTS | PAGES).values(), ids=DOCUMENTS | PAGES)
def test_every_file_that_a_document_links_is_there(path):
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))

    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("name", [*METRICS, *VOLUME_SUFFIXES])
def test_the_guide_explains_metrics_and_formats(name):
    assert f"`{name}`" in GUIDE.read_text(encoding="utf-8")
