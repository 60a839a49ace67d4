"""`medseg-simulate run`."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from medseg_core.backend_errors import BackendError, MissingRayError
from medseg_core.config import Experiment, parse_experiment, read_experiment
from medseg_core.errors import ExperimentFileError
from medseg_simulation.backend import RayCluster
from medseg_simulation.commands.options import Cache, Data, Device, SitesAtOnce, cache_folder, takes
from medseg_simulation.commands.progress import watch_terminal
from medseg_simulation.preset_files import preset_names, read_preset

INSTEAD = "In place of what the experiment says"  # heading of these options in --help


@dataclass(frozen=True)
class RunOptions:
    """What `run` can be told on the command line; the rest stands in the experiment file."""

    data: Data
    out: Annotated[Path, typer.Option(help="Folder for the run: scores, report, model, checkpoints.")]
    experiment: Annotated[
        Path | None,
        typer.Argument(
            metavar="[EXPERIMENT.toml]", help="Experiment file: what to train, and how. Or give --preset."
        ),
    ] = None
    preset: Annotated[
        str | None, typer.Option(help="A preset instead of an experiment file; see `presets`.")
    ] = None
    sites: Annotated[
        int | None,
        typer.Option(help="Number of sites for iid, quantity and dirichlet.", rich_help_panel=INSTEAD),
    ] = None
    partition: Annotated[
        str | None,
        typer.Option(help="natural, iid, quantity, dirichlet or attribute:NAME.", rich_help_panel=INSTEAD),
    ] = None
    algorithm: Annotated[
        str | None,
        typer.Option(help="fedavg, fedprox, or another of the docs.", rich_help_panel=INSTEAD),
    ] = None
    rounds: Annotated[int | None, typer.Option(help="Rounds of the federation.", rich_help_panel=INSTEAD)] = (
        None
    )
    local_epochs: Annotated[
        int | None,
        typer.Option(help="Passes over a site's training cases each round.", rich_help_panel=INSTEAD),
    ] = None
    baselines: Annotated[
        str | None,
        typer.Option(help="local, pooled or local,pooled; none for none.", rich_help_panel=INSTEAD),
    ] = None
    folds: Annotated[
        int | None,
        typer.Option(help="Cross-validation: test every patient once in K folds.", rich_help_panel=INSTEAD),
    ] = None
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", rich_help_panel=INSTEAD)] = (
        None
    )
    device: Device = "auto"
    sites_at_once: SitesAtOnce = None
    backend: Annotated[str, typer.Option(help="in-process, or ray (an extra): sites in Ray actors.")] = (
        "in-process"
    )
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a Ray cluster to use.", show_default="Ray on this machine alone"),
    ] = None
    cpus_per_site: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="CPUs that a site's actor takes of Ray's, or a fraction.",
            show_default="cpu_threads",
        ),
    ] = None
    gpus_per_site: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="GPUs that a site's actor takes, or a fraction.",
            show_default="1 where there are GPUs",
        ),
    ] = None
    cache: Cache = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run; start it if there is none.")
    ] = False
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Write profile.json.gz: where the time of three training steps goes."),
    ] = False
    json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of a table.")] = False


@takes(RunOptions)
def run(options: RunOptions) -> None:
    """Train a segmentation network across virtual hospitals and report whether federation pays."""
    start(requested_experiment(options), options)


def start(experiment: Experiment, options: RunOptions) -> None:
    """Simulate with progress on the terminal, then show the result."""
    ray = ray_of(experiment, options)
    from medseg_core.learning.device import choose_device  # torch: seconds to import, so only when needed
    from medseg_simulation.fold import Compute, sites_that_fit
    from medseg_simulation.profiling import TRACE_FILE, StepTrace
    from medseg_simulation.simulate import Place, simulate

    device = choose_device("cpu" if ray else options.device)  # with Ray, the device is the actors'
    at_once = options.sites_at_once or sites_that_fit(device, experiment.training.cpu_threads)
    trace = StepTrace(options.out / TRACE_FILE) if options.profile else None
    compute = Compute(device, at_once, trace=trace)
    place = Place(options.data, options.out, cache_folder(options.cache), compute, options.resume, ray)
    with watch_terminal(experiment, quiet=options.json) as watch:
        summary = simulate(experiment, place, watch)
    if trace and not trace.path.exists():
        typer.echo(f"warning: no {TRACE_FILE}: {trace.why_absent}", err=True)
    if options.json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        watch.show(summary, options.out)


def ray_of(experiment: Experiment, options: RunOptions) -> RayCluster | None:
    """The Ray that the options ask for, if they do. Raises BackendError, MissingRayError."""
    cpus, gpus = options.cpus_per_site, options.gpus_per_site
    if options.backend == "in-process":
        for name, given in (
            ("ray-address", options.ray_address),
            ("cpus-per-site", cpus),
            ("gpus-per-site", gpus),
        ):
            if given is not None:
                raise BackendError(f"--{name}", "it is for Ray", "Add --backend ray, or leave it away")
        return None
    if options.profile:
        raise BackendError("--profile", "it watches this process", "Leave --backend ray away")
    if options.backend != "ray":
        raise BackendError("--backend", f"there is no {options.backend!r}", "Choose in-process or ray")
    if importlib.util.find_spec("ray") is None:
        raise MissingRayError
    cpus = float(experiment.training.cpu_threads) if cpus is None else cpus
    for name, share in (("cpus-per-site", cpus), ("gpus-per-site", gpus)):
        if share is not None and share > 1 and share != int(share):
            raise BackendError(
                f"--{name}", f"it is {share:g}", "Ray takes fractions below 1, and whole numbers"
            )
    match options.device:
        case "cpu" if gpus:
            raise BackendError("--gpus-per-site", "--device cpu has no GPU", "Leave one of them away")
        case "cpu":
            gpus = 0.0
        case "cuda" if gpus == 0:
            raise BackendError("--gpus-per-site", "--device cuda needs some", "Leave one of them away")
        case "cuda":
            gpus = 1.0 if gpus is None else gpus
        case other if other != "auto":
            raise BackendError("--device", f"Ray cannot be told {other!r}", "Choose auto, cpu or cuda")
    return RayCluster(options.ray_address, cpus, gpus, options.sites_at_once)


def requested_experiment(options: RunOptions) -> Experiment:
    """The file or preset with the command line's changes. Raises ExperimentFileError or UnknownPresetError."""
    if (options.experiment is None) == (options.preset is None):
        known = ", ".join(preset_names())
        raise ExperimentFileError("run", [f"give either an experiment file or --preset, one of {known}"])
    chosen = read_experiment(options.experiment) if options.experiment else read_preset(options.preset or "")
    document = chosen.model_dump(mode="json", exclude_none=True)
    for section, changes in _changes(options).items():
        document[section] |= {key: value for key, value in changes.items() if value is not None}
    changed = parse_experiment(document, source="command line")
    partition = changed.simulation.partition
    if options.sites is not None and (partition == "natural" or partition.startswith("attribute:")):
        typer.echo(
            f"warning: --sites is not used: partition {partition} has the sites that the data name", err=True
        )
    return changed


def _changes(options: RunOptions) -> dict[str, dict[str, Any]]:
    """Options by the section of the experiment that they change."""
    baselines = (
        None
        if options.baselines is None
        else [b for b in options.baselines.split(",") if b not in ("", "none")]
    )
    return {
        "federation": {
            "algorithm": options.algorithm,
            "rounds": options.rounds,
            "local_epochs": options.local_epochs,
            "seed": options.seed,
        },
        "simulation": {
            "sites": options.sites,
            "partition": options.partition,
            "baselines": baselines,
            "folds": options.folds,
        },
    }
