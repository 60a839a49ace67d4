"""`medseg-simulate`: the command line of the researcher."""

import sys

import typer

from medseg_core.errors import MedsegError
from medseg_simulation.commands.run import run

app = typer.Typer(
    help="Would federation work on my data? Federated against local and pooled training, on one machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(run)


@app.callback()
def _root() -> None:
    pass


def main() -> None:
    """Run the command line; errors are one sentence on stderr and exit code 1, Ctrl-C is 130."""
    try:
        app()
    except MedsegError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped; what is finished is kept. Go on with --resume.", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None
