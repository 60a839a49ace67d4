"""The newest line of each site's ledger that an answer named: for `medseg-site ledger verify --head` at the site."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from medseg_core.wire.signatures import fingerprint, public_key_of
from medseg_server.run_store import RunStore
from medseg_server.runs import names
from medseg_server.server_folder import ServerFolder


@dataclass(frozen=True, order=True)
class Head:
    """A line of a ledger."""

    sequence: int
    sha256: str


def newest_heads(folder: ServerFolder) -> dict[str, Head]:
    """By site, over all runs: of the ledger that the site keeps with the keys that the roster has now."""
    keys = {site: fingerprint(public_key_of(e.signing_key)) for site, e in folder.roster().items()}
    events = (event for name in names(folder) for event in RunStore(folder.run(name)).events("ledger"))
    return newest_of(event for event in events if keys.get(event["site"]) == event["signed_by"])


def newest_of(events: Iterable[dict[str, Any]]) -> dict[str, Head]:
    """By site, the line with the highest number in `ledger` events: a stored answer sent again names an older one."""
    heads: dict[str, Head] = {}
    for event in events:
        head = Head(event["sequence"], event["sha256"])
        heads[event["site"]] = max(head, heads.get(event["site"], head))
    return heads
