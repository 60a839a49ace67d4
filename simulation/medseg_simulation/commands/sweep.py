"""`medseg-simulate sweep`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import platformdirs
import typer

from medseg_simulation.commands.options import takes


@dataclass(frozen=True)
class SweepOptions:
    """Which sweep, on which data, where to."""

    sweep: Annotated[
        str,
        typer.Argument(metavar="SWEEP.toml", help="Sweep file, or the name of one that comes with medseg."),
    ]
    data: Annotated[Path, typer.Option(help="Folder with the images, or its manifest.csv.")]
    out: Annotated[Path, typer.Option(help="Folder for the runs, sweep.json and sweep.html.")]
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    sites_at_once: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sites, or baselines, that train at the same time; any number gives the same models.",
            show_default="as the cores allow; 1 on a GPU",
        ),
    ] = None
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder for preprocessed cases; safe to delete.", show_default="the user's cache folder"
        ),
    ] = None
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
    from medseg_simulation.fold import Compute
    from medseg_simulation.process import usable_cores
    from medseg_simulation.simulate import Place
    from medseg_simulation.sweep.outcomes import Outcomes
    from medseg_simulation.sweep.page import render_page
    from medseg_simulation.sweep.plan import read_sweep, sweep_toml
    from medseg_simulation.sweep.running import run_sweep
    from medseg_simulation.sweep.summing_up import sum_up

    plan = read_sweep(options.sweep)
    device = choose_device(options.device)
    side_by_side = max(1, usable_cores() // plan.base.training.cpu_threads) if device.type == "cpu" else 1
    compute = Compute(device, options.sites_at_once or side_by_side)
    cache = options.cache or Path(platformdirs.user_cache_dir("medseg")) / "cases"
    place = Place(options.data, options.out, cache, compute, options.resume)

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
