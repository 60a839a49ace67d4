"""`medseg-server`: the command line of the coordinator."""

import json
import signal
import textwrap
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import click
import typer

from medseg_core.commands.program import make_app, run_program
from medseg_core.config import parse_document, read_experiment
from medseg_server.server_folder import ROLES, ServerFolder, ServerSettings

app = make_app("medseg-server", "Run a federation: enrol hospitals, start runs, see who took part.")
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the federation.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON.")]
AsJsonLines = Annotated[
    bool, typer.Option("--json", help="For programs: every event as a line of JSON, then the run's status.")
]
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
    """Every hospital that was ever enrolled: fingerprint, end of its certificate, connected or not, its ledger."""
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
        if head := standing.ledger:
            typer.echo(f"    line {head.sequence} of its ledger: {head.sha256}")


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
    as_json: AsJsonLines = False,
) -> None:
    """Start a run and follow it to its end; Ctrl-C stops following, not the run."""
    from medseg_server.runs import begin_run

    server = ServerFolder(folder)
    name = begin_run(server, read_experiment(experiment))
    typer.echo(json.dumps({"run": name}) if as_json else f"run {name}")
    _follow(server, name, as_json=as_json)


@app.command()
def status(
    folder: Folder,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="One run, and what its sites are; without it, all runs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one line of JSON a run.")] = False,
) -> None:
    """How far the runs are; of one run also its sites: cases, machine, software, limits, ledger."""
    from medseg_server.run_sites import sentences, sites_of
    from medseg_server.run_store import RunStore
    from medseg_server.runs import names
    from medseg_server.runs import status as status_of

    server = ServerFolder(folder)
    for found in (status_of(server, each) for each in ([name] if name else names(server))):
        sites = sites_of(RunStore(server.run(found.name))) if name else []
        if as_json:
            more = {"sites": [site.to_json() for site in sites]} if name else {}
            typer.echo(json.dumps(asdict(found) | more))
            continue
        detail = f": {found.detail}" if found.detail else ""
        typer.echo(f"{found.name}: {found.state}, round {found.round} of {found.rounds}{detail}")
        for site in sites:
            typer.echo(textwrap.indent("\n    ".join(sentences(site)), "  "))


@app.command()
def stop(folder: Folder, name: RunName, as_json: AsJson = False) -> None:
    """Stop a run after what it is doing now; it can be resumed."""
    from medseg_server.runs import status as status_of
    from medseg_server.runs import want

    server = ServerFolder(folder)
    want(server, name, "stopped")
    while status_of(server, name).state == "running":
        time.sleep(0.5)
    found = status_of(server, name)
    typer.echo(json.dumps(asdict(found)) if as_json else f"run {name}: {found.state}")


@app.command()
def resume(folder: Folder, name: RunName, as_json: AsJsonLines = False) -> None:
    """Let a run go on that was stopped or has failed, and follow it to its end."""
    from medseg_server.run_store import RunStore
    from medseg_server.runs import resume as go_on

    server = ServerFolder(folder)
    told = len(RunStore(server.run(name)).all_events())
    go_on(server, name)
    _follow(server, name, told=told, as_json=as_json)


@app.command()
def report(folder: Folder, name: RunName, as_json: AsJson = False) -> None:
    """Write report.html of a finished run again, from the figures in its folder."""
    from medseg_core.assessment.report import write_report  # matplotlib: only when needed
    from medseg_server.runs import finished

    path = write_report(finished(ServerFolder(folder), name))
    typer.echo(json.dumps({"run": name, "report": str(path)}) if as_json else f"report: {path}")


@app.command()
def publish(folder: Folder, name: RunName, as_json: AsJsonLines = False) -> None:
    """Send the model of a finished run again to the sites that were away; follows until it is done."""
    from medseg_server.run_store import RunStore
    from medseg_server.runs import finished, want

    server = ServerFolder(folder)
    store = RunStore(finished(server, name))
    told = len(store.all_events())
    store.event("resumed_by_hand")  # the run goes on where it ended: at its last step
    want(server, name, "running")
    _follow(server, name, told=told, as_json=as_json)


def _follow(server: ServerFolder, name: str, *, told: int = 0, as_json: bool = False) -> None:
    """Print what happens in a run until it ends; exit code 1 unless it finished."""
    from medseg_server.following import follow
    from medseg_server.runs import status as status_of

    for line in follow(server, name, told=told, as_json=as_json):
        typer.echo(line)
    if status_of(server, name).state != "finished":
        raise typer.Exit(1)


def main() -> None:
    """The program `medseg-server`."""
    run_program(app)
