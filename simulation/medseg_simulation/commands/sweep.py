"""`medseg-simulate sweep`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from medseg_simulation.commands.options import Cache, Data, Device, SitesAtOnce, cache_folder, takes


@dataclass(frozen=True)
class SweepOptions:
    """Which sweep, on which data, where to."""

    sweep: Annotated[
        str,
        typer.Argument(metavar="SWEEP.toml", help="Sweep file, or the name of one that comes with medseg."),
    ]
    data: Data
    out: Annotated[Path, typer.Option(help="Folder for the runs, sweep.json and sweep.html.")]
    device: Device = "auto"
    sites_at_once: SitesAtOnce = None
    cache: Cache = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted sweep; start it if there is none.")
    ] = False
    json: Annotated[bool, typer.Option("--json", help="Print sweep.json instead of tables.")] = False


@takes(SweepOptions)
def sweep(options: SweepOptions) -> None:
    """Compare algorithms in several settings and with several seeds, and recommend one with its reason."""
    from medseg_core.files import write_atomic  # what follows imports torch: seconds, so only when needed
    from medseg_core.learning.device import choose_device
    from medseg_simulation.commands.sweep_progress import show_result, watch_sweep
    from medseg_simulation.fold import Compute, sites_that_fit
    from medseg_simulation.simulate import Place
    from medseg_simulation.sweep.outcomes import Outcomes
    from medseg_simulation.sweep.page import render_page
    from medseg_simulation.sweep.plan import read_sweep, sweep_toml
    from medseg_simulation.sweep.running import run_sweep
    from medseg_simulation.sweep.summing_up import sum_up

    plan = read_sweep(options.sweep)
    device = choose_device(options.device)
    at_once = options.sites_at_once or sites_that_fit(device, plan.base.training.cpu_threads)
    cache = cache_folder(options.cache)
    place = Place(options.data, options.out, cache, Compute(device, at_once), options.resume)

    def write(outcomes: Outcomes) -> None:
        result = sum_up(plan, outcomes)
        page = render_page(result, sweep_text=sweep_toml(plan.sweep))
        write_atomic(
            options.out / "sweep.json", (result.model_dump_json(indent=2, by_alias=True) + "\n").encode()
        )
        write_atomic(options.out / "sweep.html", page.encode())

    with watch_sweep(quiet=options.json) as watch:
        outcomes = run_sweep(plan, place, watch, on_outcomes=write)
    write(outcomes)
    if options.json:
        typer.echo((options.out / "sweep.json").read_text(encoding="utf-8"))
    else:
        show_result(sum_up(plan, outcomes), options.out)
