"""`medseg-site`: the command line of a hospital."""

import itertools
import json
import textwrap
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import click
import typer

from medseg_client.ledger_commands import ledger_app
from medseg_client.process_commands import Folder, bridge, stop_on_signals, trainer, tunnel
from medseg_client.review.command import review
from medseg_client.site_folder import Role, SiteFolder, SiteSettings
from medseg_core.commands.program import make_app, run_program
from medseg_core.config import parse_document, read_experiment
from medseg_core.federation_errors import NoModelError
from medseg_core.files import write_atomic

app = make_app(
    "medseg-site", "Take part in a federation: images stay here, and what leaves is checked and signed here."
)


app.add_typer(ledger_app, name="ledger", no_args_is_help=True)


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="Name of this site in the federation.")],
    data: Annotated[Path, typer.Option(help="Folder with the images, or its manifest.csv.")],
    egress_listen: Annotated[
        str, typer.Option(help="Address at which the way out waits for the relay, as in site.toml.")
    ] = "127.0.0.1",
    egress_host: Annotated[
        str, typer.Option(help="Name or address of the way out for the relay, as in site.toml.")
    ] = "127.0.0.1",
) -> None:
    """Make a site: keys that never leave, site.toml, and the request for the coordinator."""
    from medseg_client.joining import begin
    from medseg_core.supervision import free_ports

    egress_port, node_port = free_ports(2)
    site = SiteFolder(folder)
    asked = {
        **{"name": name, "data": data.absolute(), "egress_port": egress_port, "node_port": node_port},
        **{"egress_listen": egress_listen, "egress_host": egress_host},
    }
    request = begin(site, parse_document(SiteSettings, asked, source="medseg-site init"))
    typer.echo(f"{folder} is ready. Send {site.request} to the coordinator, and by another way its")
    typer.echo(f"fingerprint: {request.fingerprint}")


@app.command()
def join(
    folder: Folder,
    kit_file: Annotated[Path, typer.Argument(metavar="KIT", help="SITE.kit.json from the coordinator.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="The federation's fingerprint, to join without being asked.")
    ] = None,
) -> None:
    """Take the coordinator's kit after comparing its fingerprint."""
    from medseg_client.joining import accept, is_of_our_federation, read_kit_file
    from medseg_client.separation import prepare

    kit = read_kit_file(kit_file)
    typer.echo(f"federation {kit.federation} at {kit.address}, fingerprint {kit.fingerprint}")
    if fingerprint is None and not is_of_our_federation(SiteFolder(folder), kit):
        typer.confirm("Does the coordinator read the same fingerprint to you?", abort=True)
    elif fingerprint not in (None, kit.fingerprint):
        raise click.UsageError(f"the kit's fingerprint is {kit.fingerprint}, not {fingerprint}")
    accept(SiteFolder(folder), kit)
    prepare(SiteFolder(folder))
    typer.echo("joined. Next: medseg-site approve DIR EXPERIMENT.toml, then medseg-site up DIR")


@app.command()
def check(
    folder: Folder,
    experiment: Annotated[
        list[Path] | None,
        typer.Option(help="Hold the images against this experiment instead of those approved; repeatable."),
    ] = None,
    share: Annotated[
        Path | None, typer.Option(help="Write the findings, without names or paths, to this file.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The findings as in --share, on the terminal.")
    ] = False,
) -> None:
    """Can this hospital take part: images, machine, way to the coordinator; exit code 1 on a fault."""
    from medseg_client.findings import is_fit, shared_report
    from medseg_client.gateway_check import check_gateway
    from medseg_client.machine_check import check_data, check_machine, check_rules
    from medseg_client.pacs_check import check_pacs

    site = SiteFolder(folder)
    asked = [read_experiment(path) for path in experiment] if experiment else site.approved.values()
    steps = (
        check_machine(site),
        check_gateway(site),
        check_pacs(site),
        check_data(site, asked),
        check_rules(site, asked),
    )
    findings = []
    for finding in itertools.chain(*steps):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{finding.state:<8} {finding.topic}: {finding.text}. {finding.remedy}".rstrip())
            if finding.detail:
                typer.echo(textwrap.indent(finding.detail, " " * 9))
    report = json.dumps(shared_report(findings), indent=2)
    if share is not None:
        write_atomic(share, f"{report}\n".encode())
    if as_json:
        typer.echo(report)
    if not is_fit(findings):
        raise typer.Exit(1)


@app.command()
def approve(
    folder: Folder,
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="What would be trained.")],
    yes: Annotated[bool, typer.Option("--yes", help="Agree without being asked.")] = False,
) -> None:
    """Show what an experiment would train and what would leave, and agree to it."""
    from medseg_client.approval import words

    site, asked = SiteFolder(folder), read_experiment(experiment)
    for line in words(asked, site.settings.policy):
        typer.echo(line)
    if not yes:
        typer.confirm("Train this here?", abort=True)
    typer.echo(f"approved experiment {site.approved.add(asked)[:16]}")


@app.command()
def up(
    folder: Folder,
    role: Annotated[
        list[Role] | None,
        typer.Option(help="Keep this role up and no other, such as in a container of its own; repeatable."),
    ] = None,
) -> None:
    """Keep this site's processes running, in the foreground, until Ctrl-C or SIGTERM."""
    from medseg_client.separation import keep_up_as_asked

    def tell(name: str, state: str) -> None:
        typer.echo(f"{time.strftime('%H:%M:%S')} {name}: {state}")

    keep_up_as_asked(SiteFolder(folder), stop_on_signals(), tell, roles=role or tuple(Role))


models_app = typer.Typer(
    help="The models that the coordinator published: see them, agree to use one, go back.",
    no_args_is_help=True,
)
app.add_typer(models_app, name="models")


@models_app.command("list")
def list_models(folder: Folder) -> None:
    """Show every model that arrived, and which one is in use."""
    from medseg_client.models import models_of

    for model in models_of(SiteFolder(folder)).listed():
        typer.echo(f"{model.run}: {model.state}")


@models_app.command("approve")
def approve_model(
    folder: Folder,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run whose model is to be used.")],
) -> None:
    """Agree to use a model: from now on predict and evaluate do. Research use only."""
    from medseg_client.models import models_of

    models_of(SiteFolder(folder)).approve(run)
    typer.echo(f"the model of run {run} is in use")


@models_app.command("rollback")
def roll_back_model(folder: Folder) -> None:
    """Take the last approval back and use the model approved before it."""
    from medseg_client.models import models_of

    typer.echo(f"the model of run {models_of(SiteFolder(folder)).rollback()} is in use")


@app.command("import")
def import_dicom(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE", help="Folder of DICOM, or pacs:KEY=VALUE,KEY=VALUE; several are joined."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for manifest.csv, images, labels and the page.")],
    task: Annotated[
        Path | None,
        typer.Option(help="Experiment that says which series and labels; without it, the one approved."),
    ] = None,
    site: Annotated[Path, typer.Option(help="Folder of this site: its PACS, and its key.")] = Path("site"),
) -> None:
    """Make images and labels for training from DICOM, under pseudonyms; exit code 1 if a study had a fault."""
    from medseg_client.importing.command import import_sources

    import_sources(SiteFolder(site), source, out, experiment=task)


@app.command()
def predict(
    folder: Folder,
    image: Annotated[
        list[str],
        typer.Option(
            help="An image file, a folder with a DICOM series, or series of the PACS (pacs:patient=..); repeat it for "
            "more cases. Join the files or folders of one case by commas."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder of a model of your own, to use instead of the approved one.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Segment DICOM cases that are held, too.")] = False,
    store: Annotated[bool, typer.Option("--store", help="Send results of DICOM cases to the PACS.")] = False,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Say of files, too, how far each is to be trusted, with maps."),
    ] = False,
) -> None:
    """Segment images with the approved model, as this site made it its own, on the grid of each image.

    Research use only.
    """
    from medseg_client.models import models_of
    from medseg_client.personal import own_part
    from medseg_client.series_sources import is_of_series
    from medseg_client.site_state import SiteState

    site, own = SiteFolder(folder), None
    if model is None:
        if not site.kit_file.is_file():
            raise NoModelError(
                "this site has joined no federation, and none sent it a model",
                "Join one and approve its model, or give the folder of a model of your own: --model",
            )
        model = models_of(site).in_use()
        own = own_part(SiteState(folder / "state"), model.name)
    if not any(is_of_series(text) for text in image):
        if force or store:
            raise click.UsageError("--force and --store are for series of DICOM")
        from medseg_core.commands.predict import segment_images

        return segment_images(model, image, out, device=device, personal=own, with_uncertainty=uncertainty)
    from medseg_client.series_predictor import predict_as_asked

    predict_as_asked(site, model, image, out, device=device, personal=own, is_forced=force, is_stored=store)
    return None


@app.command()
def evaluate(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="File (JSON) for the scores: mean, labels, sites, cases.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with labelled cases; without it, this site's own.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Score the approved model on labelled cases. The scores stay here: the file names cases and patients."""
    from medseg_client.models import models_of
    from medseg_client.personal import own_part
    from medseg_client.site_state import SiteState
    from medseg_core.commands.evaluate import score_data

    site = SiteFolder(folder)
    settings, model = site.settings, models_of(site).in_use()
    own = own_part(SiteState(folder / "state"), model.name)
    if data is not None:  # its label files are not those that site.toml tells of
        score_data(model, data, out, device=device, personal=own)
    else:
        here = folder / settings.data
        score_data(
            model,
            here,
            out,
            device=device,
            personal=own,
            task_of=lambda experiment, case: settings.task_here(experiment.task),
        )


@app.command()
def status(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Where this site stands: federation, processes, approvals, what left, models."""
    from medseg_client.membership import status as status_of

    found = status_of(SiteFolder(folder))
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    joined = f"in federation {found.federation} at {found.coordinator}" if found.federation else "not joined"
    typer.echo(f"site {found.site}: {joined}, {found.state}")
    if found.last_request is not None:
        typer.echo(f"last request to the coordinator: {time.time() - found.last_request:.0f} s ago")
    typer.echo(f"experiments approved: {found.approved}; lines in the ledger: {found.ledger_lines}")
    for run, state in found.models.items():
        typer.echo(f"model of run {run}: {state}")


@app.command()
def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="The file; without it, DIR/report.html.")] = None,
) -> None:
    """Write a page about what this site took part in, for its own people: it names cases and shows images."""
    from medseg_client.membership import REPORT
    from medseg_client.site_report import write_site_report  # matplotlib: only when needed

    path = out or folder / REPORT
    write_site_report(SiteFolder(folder), path)
    typer.echo(f"report: {path}. It names cases and shows images: keep it as you keep those.")


@app.command()
def health(folder: Folder) -> None:
    """Whether what is kept up here would take part in the next round; exit code 1 if not."""
    from medseg_client.health import fault, kept_up

    site = SiteFolder(folder)
    found = {role: fault(site, role) for role in kept_up(site)}
    for role, what in found.items():
        typer.echo(f"{role}: {what or 'ready'}")
    if not found:
        typer.echo("nothing is kept up here. Start it: medseg-site up DIR")
    if not found or any(found.values()):
        raise typer.Exit(1)


@app.command()
def leave(
    folder: Folder,
    purge: Annotated[
        bool,
        typer.Option(
            help="Remove keys, certificates, approvals, models, state, prepared images, report and logs, too, and of "
            "imports the key of pseudonyms and the list of who is who."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Leave the federation; stop `up` first. Your images and the ledger stay."""
    from medseg_client.membership import leave as go

    site = SiteFolder(folder)
    if not yes:
        what = "Leave the federation?"
        if purge:
            what = "Leave, and remove all but site.toml, the request and the ledger? Who is who of imports goes, too."
        typer.confirm(what, abort=True)
    name = site.settings.name
    go(site, purge=purge)
    typer.echo(f"site {name} has left. Tell the coordinator, who runs: medseg-server revoke DIR {name}")


for command in (review, trainer, bridge, tunnel):
    app.command()(command)


def main() -> None:
    """The program `medseg-site`."""
    run_program(app)
