"""`medseg-simulate`: the command line of the researcher."""

import sys

from medseg_core.commands.program import make_app, run_program
from medseg_simulation.commands.check import check
from medseg_simulation.commands.demo import demo
from medseg_simulation.commands.evaluate import evaluate
from medseg_simulation.commands.fetch import fetch
from medseg_simulation.commands.phantoms import phantoms
from medseg_simulation.commands.predict import predict
from medseg_simulation.commands.presets import presets
from medseg_simulation.commands.report import report
from medseg_simulation.commands.run import run
from medseg_simulation.commands.sweep import sweep

app = make_app(
    "medseg-simulate",
    "Would federation work on my data? Federated against local and pooled training, on one machine.",
)
for command in (demo, run, sweep, predict, evaluate, report, presets, check, phantoms, fetch):
    app.command()(command)


def main() -> None:
    """The program `medseg-simulate`."""
    can_go_on = sys.argv[1:2] in (["run"], ["sweep"])
    run_program(app, when_stopped="stopped" + "; finished rounds are kept. Go on with --resume." * can_go_on)
