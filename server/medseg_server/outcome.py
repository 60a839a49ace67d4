"""What a run leaves in its folder: `summary.json`, `model/`, signed, and `report.html`."""

from medseg_core.errors import ModelFolderError
from medseg_core.federation.checkpoint import load_checkpoint
from medseg_core.learning.model_package import write_model
from medseg_core.learning.scope import join
from medseg_core.learning.signed_model import check_model, sign_model
from medseg_server.evaluating import Tested
from medseg_server.rounds import Trained
from medseg_server.run import Run
from medseg_server.summary import summarise_federation


def write_outcome(run: Run, trained: Trained, tested: Tested) -> None:
    """Write all of it; after a crash, again. A model that is signed stays as it is: sites may have it."""
    from medseg_core.assessment.report import write_report  # matplotlib: only now, and only here

    folder, key = run.store.folder, run.coordinator.key
    summary = summarise_federation(run, trained, tested)
    run.store.write_json("summary.json", summary)
    try:
        check_model(folder / "model", key.public_key())
    except ModelFolderError:
        best = load_checkpoint(run.store.checkpoints / f"round_{trained.best_round:04d}")
        write_model(
            folder / "model", run.experiment, best.state.weights, summary, join(tested.scope.values())
        )
        sign_model(folder / "model", run.identifier, key)
    write_report(folder)
