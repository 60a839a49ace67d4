"""Flower carries the envelopes: one message a site, replies taken one at a time as they come.

Flower's nodes are sites by the name under which the coordinator registered them. Nothing that a node says is
believed here: the round loop checks the envelope's signature.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import split_payload
from medseg_server.transport import Delivery

POLL_S = 0.25
LOOK_FOR_SITES_S = 2.0  # between looks at who is connected
ASK_AGAIN_S = 3.0  # after a failure that may pass: a restart takes seconds
PASSING = {RefusalCode.TRAINER_AWAY}  # codes of a relay whose site mends itself
NOT_CONNECTED = "not_connected"
SITE_FAILED = "site_process_failed"  # Flower's word for it: an error in place of a reply


@dataclass
class _Open:
    """Sites of one exchange that have not answered."""

    asked: dict[str, str] = field(default_factory=dict)  # message id: site
    to_ask: dict[str, float] = field(default_factory=dict)  # site: not before
    reasons: dict[str, str] = field(default_factory=dict)  # site: what came of it last

    def ask_again(self, site: str, reason: str) -> None:
        self.to_ask[site], self.reasons[site] = time.monotonic() + ASK_AGAIN_S, reason


class FlowerTransport:
    """Carries envelopes to the sites that are connected, or become so before the deadline."""

    def __init__(
        self,
        grid: Grid,
        *,
        wait_for: tuple[str, ...],
        wait_s: float,
        on_waiting: Callable[[tuple[str, ...]], None] = lambda missing: None,
    ) -> None:
        self._grid, self._wait_for, self._wait_s, self._on_waiting = grid, wait_for, wait_s, on_waiting

    def sites(self) -> tuple[str, ...]:
        """Sites that are connected; waits up to `wait_s` for those that are enrolled."""
        end, told = time.monotonic() + self._wait_s, None
        while True:
            connected = self._connected()
            missing = tuple(site for site in self._wait_for if site not in connected)
            if not missing or time.monotonic() > end:
                return tuple(sorted(connected))
            if missing != told:
                self._on_waiting(missing)
                told = missing
            time.sleep(LOOK_FOR_SITES_S)

    def exchange(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[Delivery]:
        """Send, then deliver as replies come. A site that fails, or is away, is asked again until the deadline."""
        end = time.monotonic() + deadline_s
        still = _Open(to_ask=dict.fromkeys(requests, 0.0), reasons=dict.fromkeys(requests, NOT_CONNECTED))
        while (still.asked or still.to_ask) and time.monotonic() < end:
            self._ask(still, requests, end)
            yield from self._answers(still)
            time.sleep(POLL_S)
        for site in sorted({*still.asked.values(), *still.to_ask}):
            reason = still.reasons[site] if site in still.to_ask else str(RefusalCode.DEADLINE)
            yield Delivery(site, None, reason)

    def _connected(self) -> dict[str, int]:
        """Node of each site that is online."""
        return {node.name: node.node_id for node in self._grid.get_nodes()}

    def _ask(self, still: _Open, requests: Mapping[str, bytes], end: float) -> None:
        """Send to those whose turn it is; who is not connected gets another turn."""
        due = [site for site, not_before in still.to_ask.items() if not_before <= time.monotonic()]
        nodes = self._connected() if due else {}
        for site in due:
            if site not in nodes:
                still.to_ask[site] = time.monotonic() + LOOK_FOR_SITES_S
                continue
            message = _message(requests[site], nodes[site], ttl_s=max(1.0, end - time.monotonic()))
            (identifier,) = self._grid.push_messages([message])
            still.asked[identifier] = site
            del still.to_ask[site]

    def _answers(self, still: _Open) -> Iterator[Delivery]:
        """Replies that are there, each pulled alone: one update in memory at a time."""
        for identifier in tuple(still.asked):
            for reply in self._grid.pull_messages([identifier]):
                site = still.asked.pop(identifier)
                envelope, code = _content(reply)
                if envelope is not None:
                    yield Delivery(site, envelope)
                elif code in PASSING or code == SITE_FAILED:
                    still.ask_again(site, code)
                else:
                    yield Delivery(site, None, code)


def _message(request: bytes, node: int, *, ttl_s: float) -> Message:
    """A request as Flower's message; of one broadcast, Flower stores the payload once."""
    head, payload = split_payload(request)
    arrays = {
        name: Array("uint8", (len(d),), "bytes", d) for name, d in (("head", head), ("payload", payload))
    }
    return Message(RecordDict({"envelope": ArrayRecord(arrays)}), node, "query", ttl=ttl_s)


def _content(reply: Message) -> tuple[bytes | None, str]:
    """The envelope in a reply, or the code why there is none."""
    if reply.has_error():
        return None, SITE_FAILED
    try:
        arrays = reply.content.array_records["envelope"]
        return arrays["head"].data + arrays["payload"].data, ""
    except (KeyError, TypeError):
        return None, _code_in(reply)


def _code_in(reply: Message) -> str:
    """A relay's code, one of ours whatever it says."""
    record = reply.content.config_records.get("relay", ConfigRecord())
    try:
        return str(RefusalCode(str(record.get("code", ""))))
    except ValueError:
        return str(RefusalCode.MALFORMED)
