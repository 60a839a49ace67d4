"""The final model sent to the sites of a run: signed, and theirs to approve."""

from medseg_core.files import sha256_of
from medseg_core.learning.signed_model import pack_model
from medseg_server.requests import Answer
from medseg_server.run import Run

DEADLINE_S = 600.0  # nothing is computed: a site that is there has it within minutes


def publish(run: Run, chosen_round: int) -> None:
    """Send `model/` to every site of the run that has no receipt for it yet; who was away is written down.

    A site that is away stops nothing: it is asked the next time.
    """
    payload = pack_model(run.store.folder / "model")
    package = sha256_of(payload)
    missing = _without_receipt(run, package)
    if not missing:
        return
    connected = set(run.sites())
    absent = {site: "not_connected" for site in missing if site not in connected}
    asked = [site for site in missing if site in connected]
    attempt = run.next_attempt("publishing", chosen_round)
    headers = {site: run.header("publish", site, chosen_round, attempt) for site in asked}
    deadline_s = min(DEADLINE_S, run.experiment.federation.deadline_s)
    received = []
    for answer in run.ask(headers, dict.fromkeys(headers, payload), deadline_s=deadline_s):
        if fault := _fault(answer, len(payload)):
            absent[answer.site] = fault
        else:
            received.append(answer.site)
    run.store.event("published", package=package, sites=sorted(received), absent=dict(sorted(absent.items())))


def _without_receipt(run: Run, package: str) -> list[str]:
    """Sites of the run that have not said that they hold this package."""
    (described, *_) = run.store.events("described")
    told = [event for event in run.store.events("published") if event["package"] == package]
    return sorted(set(described["sites"]) - {site for event in told for site in event["sites"]})


def _fault(answer: Answer, n_bytes: int) -> str:
    """Why an answer is no receipt; empty for one."""
    if answer.reply is None:
        return answer.reason
    return "" if answer.reply.header.counts.get("bytes") == n_bytes else "bad_count"
