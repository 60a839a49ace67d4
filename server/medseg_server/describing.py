"""Which sites a run has, and with how many cases: told once, and held to."""

from collections.abc import Mapping

from medseg_core.config import experiment_toml
from medseg_core.wire.site_facts import read_facts
from medseg_server.errors import SiteAnswersError
from medseg_server.run import Run

Counts = Mapping[str, int]
COUNTED = {f"{part}_{kind}" for part in ("train", "validation", "test") for kind in ("cases", "patients")}


def describe(run: Run) -> dict[str, Counts]:
    """Case counts of every site of the run, in alphabetical order.

    The first description holds for the whole run. A site that is away when the run is resumed is still one of it: it
    keeps its counts, and the rounds record its absence. What sites tell of themselves is written down each time: a
    machine or a policy may change, and nothing of the run depends on it.

    Raises SiteAnswersError: a site did not answer the first time, or counts other cases than then.
    """
    before = _described_before(run)
    attempt = run.next_attempt("describing", 0)
    headers = {site: run.header("describe", site, 0, attempt) for site in before or run.sites()}
    counts, absent, facts = dict(before), {}, {}
    payload = experiment_toml(run.experiment).encode()  # a site may have agreed to its task beforehand
    needed = COUNTED | ({"train_voxels"} if run.experiment.federation.weights == "voxels" else set())
    deadline_s = run.experiment.federation.deadline_s
    for answer in run.ask(headers, dict.fromkeys(headers, payload), deadline_s=deadline_s):
        site = answer.site
        if answer.reply is None:
            if site not in before:
                absent[site] = answer.reason
        elif fault := _fault(answer.reply.header.counts, before.get(site), needed):
            absent[site] = fault
        else:
            counts[site] = answer.reply.header.counts
            if told := read_facts(answer.reply.header.scalars):
                facts[site] = told.model_dump(mode="json")
    if facts:
        run.store.event("site_facts", sites=dict(sorted(facts.items())))
    if absent or not counts:
        raise SiteAnswersError("describe", absent)
    counts = dict(sorted(counts.items()))
    if not before:
        run.store.event("described", sites=counts)
    return counts


def _described_before(run: Run) -> dict[str, Counts]:
    """What the sites told when the run began; empty for a new one."""
    events = run.store.events("described")
    return dict(events[0]["sites"]) if events else {}


def _fault(counts: Counts, before: Counts | None, needed: set[str]) -> str:
    """What is wrong with a site's counts; empty where nothing is."""
    if needed - counts.keys() or min(counts[name] for name in needed if name.startswith("train_")) < 1:
        return "bad_count"
    if before is not None and counts != before:
        return "its cases changed since the run began"
    return ""
