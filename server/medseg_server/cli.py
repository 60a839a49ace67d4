"""`medseg-server`: the command line of the coordinator."""

import json
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from medseg_core.config import parse_document, read_experiment
from medseg_core.errors import MedsegError
from medseg_server.server_folder import ROLES, ServerFolder, ServerSettings

app = typer.Typer(
    help="Run a federation: enrol hospitals, start runs, see who took part.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the federation.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")]


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="Name of the federation.")],
    address: Annotated[str, typer.Option(help="HOST:PORT where hospitals reach this machine.")],
    listen: Annotated[
        str | None, typer.Option(help="ADDRESS:PORT where the gateway listens, if not the port of --address.")
    ] = None,
    superlink: Annotated[
        str | None,
        typer.Option(help="HOST:PORT where gateway and superexec reach the superlink, if not on loopback."),
    ] = None,
) -> None:
    """Make a federation: certificate authority, keys and server.toml in a new folder."""
    from medseg_core.supervision import free_ports
    from medseg_server.enrolling import begin, federation_fingerprint

    server, asked = ServerFolder(folder), {"name": name, "address": address, "listen": listen}
    host, _, port = (superlink or f"127.0.0.1:{free_ports(1)[0]}").rpartition(":")
    reached = {"superlink_host": host, "superlink_port": int(port) if port.isdecimal() else port}
    begin(server, parse_document(ServerSettings, {**asked, **reached}, source="medseg-server init"))
    typer.echo(f"{folder} is ready. Fingerprint of the federation: {federation_fingerprint(server)}")
    typer.echo("Hospitals compare it when they join. Next: medseg-server approve DIR SITE.request.json")


@app.command()
def approve(
    folder: Folder,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="SITE.request.json from a hospital.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="The request's fingerprint, to approve without being asked.")
    ] = None,
) -> None:
    """Enrol a hospital after comparing fingerprints; writes the kit that it joins with."""
    from medseg_server.enrolling import enrol, federation_fingerprint, read_request_file

    server, asked = ServerFolder(folder), read_request_file(request)
    found = asked.fingerprint
    typer.echo(f"site {asked.site}, fingerprint {found}")
    if fingerprint is None:
        typer.confirm("Does the hospital read the same fingerprint to you?", abort=True)
    elif fingerprint != found:
        raise click.UsageError(f"the request's fingerprint is {found}, not {fingerprint}")
    before = server.roster().get(asked.site)
    enrol(server, asked)
    if before is not None and before.fingerprint != found:
        typer.echo(f"these keys replace {before.fingerprint}, whose certificates are revoked.")
    typer.echo(
        f"enrolled. Send {server.kit(asked.site)} to the hospital, and by another way the federation's"
    )
    typer.echo(f"fingerprint: {federation_fingerprint(server)}")


@app.command()
def sites(folder: Folder, as_json: AsJson = False) -> None:
    """Every hospital that was ever enrolled: fingerprint, end of its certificate, connected or not."""
    from medseg_server.flower_control import FlowerControl
    from medseg_server.membership import connections, standings

    server = ServerFolder(folder)
    found = standings(server, connections(server, FlowerControl(server)))
    if as_json:
        typer.echo(json.dumps([standing.to_json() for standing in found]))
        return
    for standing in found:
        until = f"until {standing.expires_at[:10]}" if standing.expires_at else "no valid certificate"
        words = (standing.site, standing.status, standing.fingerprint, until, standing.connection or "")
        typer.echo("  ".join(words).rstrip())


@app.command()
def revoke(
    folder: Folder,
    site: Annotated[str, typer.Argument(metavar="SITE", help="Name of the hospital.")],
    as_json: AsJson = False,
) -> None:
    """Shut a hospital out, with every certificate that it ever had; no other is touched."""
    from medseg_server.membership import revoke as shut_out

    entry = shut_out(ServerFolder(folder), site)
    if as_json:
        typer.echo(json.dumps({"site": site, "revoked": [c.serial for c in entry.certificates]}))
        return
    typer.echo(f"{site} is revoked, with all {len(entry.certificates)} certificates that it was given.")
    typer.echo("Its keys are never accepted again. To come back: `medseg-site init` in a new folder there,")
    typer.echo("then medseg-server approve DIR SITE.request.json")


@app.command()
def renew(
    folder: Folder,
    site: Annotated[
        str | None, typer.Argument(metavar="[SITE]", help="A hospital; without one: this machine's servers.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A new certificate for the same keys; nothing is interrupted. Without SITE: for gateway and superlink."""
    from medseg_server.membership import renew as renew_site
    from medseg_server.membership import renew_servers

    server = ServerFolder(folder)
    if site is None:
        ends = renew_servers(server)
        shown = [f"{name}: certificate until {end[:10]}" for name, end in ends.items()]
        facts: dict[str, str] = ends
    else:
        end, kit = renew_site(server, site), server.kit(site)
        shown = [
            f"{site}: certificate until {end[:10]}. Send {kit} to the hospital: medseg-site join DIR KIT"
        ]
        facts = {"site": site, "expires_at": end, "kit": str(kit)}
    typer.echo(json.dumps(facts) if as_json else "\n".join(shown))


@app.command()
def up(
    folder: Folder,
    role: Annotated[
        list[str] | None,
        typer.Option(
            click_type=click.Choice(ROLES), help="Keep up this one alone: a container each; repeatable."
        ),
    ] = None,
) -> None:
    """Keep the coordinator's processes running, in the foreground, until Ctrl-C or SIGTERM."""
    from medseg_server.services import serve

    server, stop = ServerFolder(folder), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    serve(
        server,
        stop,
        lambda name, state: typer.echo(f"{time.strftime('%H:%M:%S')} {name}: {state}"),
        roles=[known for known in ROLES if not role or known in role],
    )


@app.command()
def health(folder: Folder) -> None:
    """Whether what is kept up here would take part in the next round; exit code 1 if not."""
    from medseg_server.health import fault, kept_up

    server = ServerFolder(folder)
    found = {role: fault(server, role) for role in kept_up(server)}
    for role, what in found.items():
        typer.echo(f"{role}: {what or 'ready'}")
    if not found:
        typer.echo("nothing is kept up here. Start it: medseg-server up DIR")
    if not found or any(found.values()):
        raise typer.Exit(1)


@app.command()
def run(
    folder: Folder,
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="What to train.")],
) -> None:
    """Start a run and follow it to its end; Ctrl-C stops following, not the run."""
    from medseg_server.runs import begin_run

    server = ServerFolder(folder)
    name = begin_run(server, read_experiment(experiment))
    typer.echo(f"run {name}")
    _follow(server, name)


@app.command()
def status(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one line of JSON a run.")] = False,
) -> None:
    """How far the runs are."""
    from medseg_server.runs import names
    from medseg_server.runs import status as status_of

    server = ServerFolder(folder)
    for found in (status_of(server, name) for name in names(server)):
        if as_json:
            typer.echo(json.dumps(asdict(found)))
        else:
            detail = f": {found.detail}" if found.detail else ""
            typer.echo(f"{found.name}: {found.state}, round {found.round} of {found.rounds}{detail}")


@app.command()
def stop(folder: Folder, name: RunName) -> None:
    """Stop a run after what it is doing now; it can be resumed."""
    from medseg_server.runs import status as status_of
    from medseg_server.runs import want

    server = ServerFolder(folder)
    want(server, name, "stopped")
    while status_of(server, name).state == "running":
        time.sleep(0.5)
    typer.echo(f"run {name}: {status_of(server, name).state}")


@app.command()
def resume(folder: Folder, name: RunName) -> None:
    """Let a run go on that was stopped or has failed, and follow it to its end."""
    from medseg_server.run_store import RunStore
    from medseg_server.runs import resume as go_on

    server = ServerFolder(folder)
    told = len(RunStore(server.run(name)).all_events())
    go_on(server, name)
    _follow(server, name, told=told)


@app.command()
def report(folder: Folder, name: RunName) -> None:
    """Write report.html of a finished run again, from the figures in its folder."""
    from medseg_core.assessment.report import write_report  # matplotlib: only when needed
    from medseg_server.runs import finished

    typer.echo(f"report: {write_report(finished(ServerFolder(folder), name))}")


@app.command()
def publish(folder: Folder, name: RunName) -> None:
    """Send the model of a finished run again to the sites that were away; follows until it is done."""
    from medseg_server.run_store import RunStore
    from medseg_server.runs import finished, want

    server = ServerFolder(folder)
    store = RunStore(finished(server, name))
    told = len(store.all_events())
    store.event("resumed_by_hand")  # the run goes on where it ended: at its last step
    want(server, name, "running")
    _follow(server, name, told=told)


def _follow(server: ServerFolder, name: str, told: int = 0) -> None:
    """Print what happens in a run until it ends, from the event after `told`."""
    from medseg_server.run_store import RunStore
    from medseg_server.runs import status as status_of

    store = RunStore(server.run(name))
    while True:
        state = status_of(server, name).state
        events = store.all_events()
        for event in events[told:]:
            if text := _sentence(event):
                typer.echo(text)
        told = len(events)
        if state == "finished":
            typer.echo(f"report: {server.run(name).absolute() / 'report.html'}")
        if state in ("finished", "failed", "stopped"):
            raise typer.Exit(0 if state == "finished" else 1)
        time.sleep(1)


def _sentence(event: dict[str, Any]) -> str:
    """What an event says to people; nothing for those that are for machines."""
    match event["event"]:
        case "described":
            return "sites: " + ", ".join(f"{s} ({c['train_cases']} cases)" for s, c in event["sites"].items())
        case "waiting":
            return f"waiting for {', '.join(event['sites'])} to connect"
        case "round_finished":
            absent = "".join(f", without {s} ({why})" for s, why in event["absent"].items())
            loss = event["training_loss"]
            return f"round {event['round']}: loss {'not told' if loss is None else f'{loss:.3f}'}{absent}"
        case "evaluated":
            return f"round {event['round']}: validation Dice {event['validation_dice']:.3f}"
        case "tested":
            return "tested: " + ", ".join(f"{s} Dice {v['dice']:.3f}" for s, v in event["sites"].items())
        case "published":
            absent = "".join(f", not to {s} ({why})" for s, why in event["absent"].items())
            return f"published to {', '.join(event['sites']) or 'no site'}{absent}"
        case "failed" | "versions_differ":
            return f"{event['event'].replace('_', ' ')}: {event['detail']}"
        case "finished" | "stopped":
            return str(event["event"])
    return ""


def main() -> None:
    """Run the command line; errors are one sentence on stderr and exit code 1."""
    try:
        code = app(standalone_mode=False)
    except MedsegError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        code = 1
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = 130
    raise SystemExit(code or 0)
