"""`medseg-simulate demo`."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from medseg_core.files import write_atomic
from medseg_simulation.commands.options import Device, takes
from medseg_simulation.commands.run import RunOptions, start
from medseg_simulation.preset_files import read_preset


@dataclass(frozen=True)
class DemoOptions:
    """Where the demonstration goes."""

    out: Annotated[
        Path, typer.Option(help="Folder for phantoms and run; a folder of an earlier demo is replaced.")
    ] = Path("demo")
    device: Device = "auto"


@takes(DemoOptions)
def demo(options: DemoOptions) -> None:
    """Make phantoms of 4 hospitals, train across them, print a table and the path of the report.

    About a minute on two cores.
    """
    from medseg_simulation.phantoms import PhantomSettings, write_phantoms  # SimpleITK: only when needed

    data, out, mark = options.out / "phantoms", options.out / "run", options.out / "made-by-demo"
    if mark.exists():  # nothing of anybody else's is ever deleted
        for folder in (data, out):
            shutil.rmtree(folder, ignore_errors=True)
    typer.echo("making phantoms of 4 hospitals", err=True)
    write_phantoms(data, PhantomSettings())
    write_atomic(mark, b"The demo of medseg may replace the folders phantoms and run beside this file.\n")
    start(
        read_preset("phantom"),
        RunOptions(data=data, out=out, device=options.device, cache=options.out / "cache"),
    )
