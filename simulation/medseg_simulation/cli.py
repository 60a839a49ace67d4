"""`medseg-simulate`: the command line of the researcher."""

import sys
from typing import Annotated

import click
import typer

from medseg_core.errors import MedsegError
from medseg_core.version import version_text
from medseg_simulation.commands.check import check
from medseg_simulation.commands.demo import demo
from medseg_simulation.commands.evaluate import evaluate
from medseg_simulation.commands.fetch import fetch
from medseg_simulation.commands.phantoms import phantoms
from medseg_simulation.commands.predict import predict
from medseg_simulation.commands.presets import presets
from medseg_simulation.commands.report import report
from medseg_simulation.commands.run import run

INTERRUPTED = 130  # 128 and SIGINT, as shells count; typer turns Ctrl-C into it

app = typer.Typer(
    help="Would federation work on my data? Federated against local and pooled training, on one machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (demo, run, predict, evaluate, report, presets, check, phantoms, fetch):
    app.command()(command)


def _show_version(is_asked: bool) -> bool:
    if is_asked:
        typer.echo(f"medseg-simulate {version_text()}")
        raise typer.Exit
    return is_asked


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show version and commit."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors are one sentence on stderr and exit code 1, Ctrl-C is 130."""
    try:
        code = app(standalone_mode=False)
    except MedsegError as error:
        code = _say(f"error: {error}", 1)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        _say(
            "stopped"
            + ("; finished rounds are kept. Go on with --resume." if sys.argv[1:2] == ["run"] else ""),
            code,
        )
    raise SystemExit(code or 0)


def _say(text: str, code: int) -> int:
    """One sentence on stderr, and the exit code that goes with it."""
    print(text, file=sys.stderr)  # noqa: T201
    return code
