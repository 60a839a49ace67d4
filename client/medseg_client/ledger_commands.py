"""`medseg-site ledger`: what left, shown and checked."""

import json
from typing import Annotated

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from medseg_client.process_commands import Folder
from medseg_client.site_folder import SiteFolder


class _ShowsByDefault(TyperGroup):
    """`ledger DIR` is `ledger show DIR`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names, or `show` with that word."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


ledger_app = typer.Typer(cls=_ShowsByDefault, help="What left this site: `ledger DIR`, `ledger verify DIR`.")


@ledger_app.command("show")
def show_ledger(
    folder: Folder,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, as in the ledger.")
    ] = False,
) -> None:
    """What left this site, oldest first."""
    from medseg_client.ledger import read_ledger
    from medseg_client.ledger_table import table

    site = SiteFolder(folder)
    lines = read_ledger(site.ledger, site.public_key).lines
    if as_json:
        for line in lines:
            typer.echo(line.entry.model_dump_json())
    else:
        Console().print(table(lines))


@ledger_app.command("verify")
def verify_ledger(
    folder: Folder,
    head: Annotated[
        str | None,
        typer.Option(help="SHA-256 of a line that must be there, as an answer or the coordinator names it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check that no line was changed, removed, moved or cut off; exit code 1 if one was."""
    from medseg_client.ledger import read_ledger

    site = SiteFolder(folder)
    reading = read_ledger(site.ledger, site.public_key, head=head)
    if as_json:
        found = {"lines": len(reading.lines), "head": reading.head, "unfinished_bytes": len(reading.torn)}
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{len(reading.lines)} lines, all as this site wrote them. Head: {reading.head}")
    if reading.torn:
        typer.echo(
            f"{len(reading.torn)} bytes of an unfinished line follow: a crash, or it is being written now."
        )
    if head is None:
        typer.echo(
            "Lines cut off on purpose would show only against a head that somebody else keeps: --head HASH."
        )
