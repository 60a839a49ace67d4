"""One run from its folder to its end: what the coordinator's process does, whatever carries the envelopes."""

from dataclasses import replace

from pydantic import TypeAdapter

from medseg_core.assessment.released import Figures
from medseg_core.learning.scope import Moments
from medseg_server.evaluating import Tested, test_and_read
from medseg_server.outcome import write_outcome
from medseg_server.publishing import publish
from medseg_server.rounds import Trained, recall, train
from medseg_server.run import Record, Run

_MOMENTS = TypeAdapter(dict[str, dict[str, Moments]])


def conduct(run: Run) -> Trained:
    """Train, have every site test the chosen model once, leave the outcome, publish the model; nothing twice."""
    tested = _tested_before(run)
    if tested is None:
        trained = _train(run)
        tested = test_and_read(run, trained.best_round, trained.cases)
        figures = {
            "sites": tested.figures,
            "absent": tested.absent,
            "personal": tested.personal,
            "server": tested.server,
            "scope": {
                site: {k: m.model_dump() for k, m in own.items()} for site, own in tested.scope.items()
            },
        }
        run.store.event("tested", round=trained.best_round, **figures)
    else:
        trained = recall(run)
    write_outcome(run, trained, tested)
    publish(run, trained.best_round)
    return trained


def _train(run: Run) -> Trained:
    """Train, with learning curves in `tensorboard/` as they come."""
    from medseg_server.tensorboard import TensorBoard  # seconds to import

    board = TensorBoard(run.store.folder / "tensorboard")

    def on_round(record: Record) -> None:
        board.add_round("global", record)
        run.on_round(record)

    try:
        return train(replace(run, on_round=on_round))
    finally:
        board.close()


def _tested_before(run: Run) -> Tested | None:
    """The test figures that an earlier process wrote down."""
    for event in run.store.events("tested"):
        figures: dict[str, Figures] = event["sites"]
        scope = _MOMENTS.validate_python(event.get("scope", {}))  # earlier releases asked for none
        return Tested(figures, event["absent"], event["personal"], event["server"], scope)
    return None
