"""`medseg-simulate presets`."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from medseg_simulation.commands.options import takes
from medseg_simulation.preset_files import describe_preset, preset_names, read_preset


@dataclass(frozen=True)
class PresetsOptions:
    """Nothing to choose."""


@takes(PresetsOptions)
def presets(options: PresetsOptions) -> None:  # noqa: ARG001
    """List the experiments that come with medseg, for `run --preset` and `check --preset`."""
    with Console(stderr=True).status("counting the parameters of their networks"):  # seconds to import
        from medseg_core.learning.networks import build_network, count_parameters

        table = Table("preset", "what", "dims", "labels", "parameters")
        for name in preset_names():
            experiment = read_preset(name)
            task = experiment.task
            size = count_parameters(build_network(task, experiment.model, seed=0))
            table.add_row(
                name, describe_preset(name), f"{task.spatial_dims}D", ", ".join(task.labels), f"{size:,}"
            )
    Console().print(table)
