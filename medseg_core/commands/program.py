"""What the command lines have in common: --version, and how they end."""

import atexit
import gc
import sys
from typing import Annotated

import click
import typer

from medseg_core.errors import MedsegError
from medseg_core.version import version_text

INTERRUPTED = 130  # 128 and SIGINT, as shells count; typer turns Ctrl-C into it


def make_app(name: str, help_text: str) -> typer.Typer:
    """A command line without commands yet; it tells its version and commit."""
    app = typer.Typer(
        name=name,
        help=help_text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )

    def show_version(is_asked: bool) -> bool:
        if is_asked:
            typer.echo(f"{name} {version_text()}")
            raise typer.Exit
        return is_asked

    @app.callback()
    def root(
        version: Annotated[
            bool,
            typer.Option("--version", callback=show_version, is_eager=True, help="Show version and commit."),
        ] = False,
    ) -> None:
        pass

    return app


def run_program(app: typer.Typer, *, when_stopped: str = "") -> None:
    """Run the command line; errors are one sentence on stderr and exit code 1, Ctrl-C is 130.

    Raises SystemExit, always.
    """
    atexit.register(gc.freeze)  # or a process that ends looks for garbage in all of torch: a second and more
    try:
        code = app(standalone_mode=False)
    except MedsegError as error:
        code = _say(f"error: {error}", 1)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED and when_stopped:
        _say(when_stopped, code)
    raise SystemExit(code or 0)


def _say(text: str, code: int) -> int:
    """One sentence on stderr, and the exit code that goes with it."""
    print(text, file=sys.stderr)  # noqa: T201
    return code
