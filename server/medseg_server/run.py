"""One run as the coordinator holds it: the experiment, the way to the sites, and the folder."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medseg_core.config import Experiment, experiment_sha256
from medseg_core.wire.header import Header, Kind, new_nonce
from medseg_core.wire.versions import WIRE_VERSION
from medseg_server.own_data import OwnData
from medseg_server.requests import Answer, Coordinator, ask
from medseg_server.run_store import RunStore
from medseg_server.transport import Transport

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run: what is asked, of whom, and where it is kept."""

    identifier: str
    experiment: Experiment
    coordinator: Coordinator
    transport: Transport
    store: RunStore
    on_round: Callable[[Record], None] = field(default=lambda record: None)
    own_data: OwnData | None = None

    def header(self, kind: Kind, site: str, round_number: int, attempt: int, **more: Any) -> Header:
        """A request's header."""
        return Header(
            wire=self.coordinator.versions.get(site, WIRE_VERSION),
            kind=kind,
            direction="request",
            run=self.identifier,
            round=round_number,
            attempt=attempt,
            site=site,
            nonce=new_nonce(),
            task=self.experiment.task.name,
            experiment_sha256=experiment_sha256(self.experiment),
            **more,
        )

    def sites(self) -> tuple[str, ...]:
        """Sites that are connected and enrolled."""
        return tuple(site for site in self.transport.sites() if site in self.coordinator.roster)

    def ask(
        self,
        headers: Mapping[str, Header],
        payloads: Mapping[str, bytes],
        *,
        deadline_s: float,
        model_bytes: int = 0,
        instead: Callable[[Answer], tuple[Header, bytes] | None] = lambda refusal: None,
    ) -> Iterator[Answer]:
        """Send sites their headers and payloads; one answer a site, its place in the site's ledger written down.

        To a refusal `instead` may give another request: the site is asked that at once.

        What is written down shows later whether lines were cut from a ledger, refusals and all.
        """

        def noted(answer: Answer) -> Answer:
            if answer.ledger is not None:
                asked = headers[answer.site]
                facts = {"kind": asked.kind, "round": asked.round, **asdict(answer.ledger)}
                self.store.event("ledger", code=answer.reason or None, **facts)
            return answer

        def noted_instead(refusal: Answer) -> tuple[Header, bytes] | None:
            if (other := instead(refusal)) is not None:
                noted(refusal)
            return other

        asked_in = self.coordinator, self.transport, headers, payloads
        answers = ask(*asked_in, deadline_s=deadline_s, model_bytes=model_bytes, instead=noted_instead)
        return map(noted, answers)

    def next_attempt(self, event: str, round_number: int) -> int:
        """Attempts at this round so far, in earlier processes too, plus one; written down before anything is sent."""
        attempt: int = 1 + sum(e["round"] == round_number for e in self.store.events(event))
        self.store.event(event, round=round_number, attempt=attempt)
        return attempt


def best_round(history: Sequence[Record]) -> int:
    """The round with the highest validation Dice; the first of equals, and 0 where none was scored yet.

    Two rounds are compared over the sites that scored both: that a site was away makes neither better.
    """
    best: Record = {"round": 0}
    for record in history:
        if "validation_dice" in record and (not best["round"] or _is_better(record, best)):
            best = record
    return int(best["round"])


def _is_better(record: Record, other: Record) -> bool:
    both = record["sites"].keys() & other["sites"].keys()
    if not both or record["sites"].keys() == other["sites"].keys():
        return bool(record["validation_dice"] > other["validation_dice"])
    n_cases = record.get("scored_cases") or dict.fromkeys(both, 1)  # of a run that an earlier release began
    return math.fsum(n_cases[site] * (record["sites"][site] - other["sites"][site]) for site in both) > 0
