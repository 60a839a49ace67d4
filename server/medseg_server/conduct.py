"""One run from its folder to its end: what the coordinator's process does, whatever carries the envelopes."""

from medseg_server.rounds import Trained, test_chosen, train
from medseg_server.run import Run


def conduct(run: Run) -> Trained:
    """Train, then have every site test the chosen model once; what is done already is not done again."""
    trained = train(run)
    if not run.store.events("tested"):
        scores = test_chosen(run, trained.best_round, tuple(trained.cases))
        run.store.event("tested", round=trained.best_round, sites=scores)
    return trained
