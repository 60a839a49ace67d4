"""Flower carries the envelopes: one message a site, replies taken one at a time as they come.

Flower's nodes are sites by the name under which the coordinator registered them. Nothing that a node says is
believed here: the round loop checks the envelope's signature.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import pull_objects

from medseg_core.federation_errors import RunStoppedError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import split_payload
from medseg_core.wire.versions import VERSION_MAX
from medseg_server.transport import Delivery, asked_anew

POLL_S = 0.25
LOOK_FOR_SITES_S = 2.0  # between looks at who is connected
ASK_AGAIN_S = 3.0  # after a failure that may pass: a restart takes seconds
REPEAT_S = 30.0  # without an answer, doubled each time: Flower may lose a reply without a word
REPEAT_S_MAX = 600.0
PULL_S = 15.0  # then a pull goes on aside: of a reply that was cut off on its way, Flower waits minutes for the rest
PIECE_S, PIECE_S_MAX = 0.25, 3.0  # looks for a piece that a site is still sending: first, and doubled up to
PASSING = {RefusalCode.TRAINER_AWAY}  # codes of a relay whose site mends itself
NOT_CONNECTED = "not_connected"
SITE_FAILED = "site_process_failed"  # Flower's word for it: an error in place of a reply


@dataclass
class _Waiting:
    """A site that has not answered: when it is asked next, and what came of it last."""

    repeat_s: float
    ask_at: float = 0.0
    reason: str = NOT_CONNECTED


@dataclass
class _Open:
    """What is open in one exchange."""

    waiting: dict[str, _Waiting]
    asked: dict[str, str] = field(default_factory=dict)  # message id: site
    aside: dict[str, "_Pull"] = field(default_factory=dict)  # message id: what takes long

    def answered(self, site: str) -> None:
        """No further reply of this site is of interest."""
        del self.waiting[site]
        self.asked = {identifier: other for identifier, other in self.asked.items() if other != site}
        self.aside = {identifier: pull for identifier, pull in self.aside.items() if identifier in self.asked}


class FlowerTransport:
    """Carries envelopes to the sites that are connected, or become so before the deadline.

    `on_waiting` is told who is missing; `on_versions` of a site that does not speak our wire version, with those that
    it speaks. Raises RunStoppedError wherever it waits, once `is_stopped`.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        wait_for: tuple[str, ...],
        wait_s: float,
        on_waiting: Callable[[tuple[str, ...]], None] = lambda missing: None,
        on_versions: Callable[[str, tuple[int, ...]], None] = lambda site, spoken: None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        _look_soon_for_pieces()
        self._grid, self._wait_for, self._wait_s, self._on_waiting = grid, wait_for, wait_s, on_waiting
        self._on_versions, self._is_stopped = on_versions, is_stopped

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
            self._wait(LOOK_FOR_SITES_S)

    def exchange(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[Delivery]:
        """Send, then deliver as replies come. A site that fails, is away or silent is asked again until the deadline.

        A site answers a repeated request with the stored reply, or says that it is at work on it.
        """
        end = time.monotonic() + deadline_s
        still = _Open({site: _Waiting(REPEAT_S) for site in requests})
        while still.waiting and time.monotonic() < end:
            self._ask(still, requests, end)
            yield from self._answers(still)
            still.waiting |= {site: _Waiting(REPEAT_S) for site in asked_anew(requests)}
            self._wait(POLL_S)
        for site, waiting in sorted(still.waiting.items()):
            yield Delivery(site, None, waiting.reason)

    def _wait(self, seconds: float) -> None:
        if self._is_stopped():
            raise RunStoppedError
        time.sleep(seconds)

    def _connected(self) -> dict[str, int]:
        """Node of each site that is online."""
        return {node.name: node.node_id for node in self._grid.get_nodes()}

    def _ask(self, still: _Open, requests: Mapping[str, bytes], end: float) -> None:
        """Send to those whose turn it is; who is not connected gets another turn.

        Neighbours with the same payload are sent to at once: none waits while it is pushed for another. A repeat
        expires when the next one is due: a node that is busy takes one message after the other, and would work through
        all repeats when the round is long over.
        """
        now = time.monotonic()
        due = {site: waiting for site, waiting in still.waiting.items() if waiting.ask_at <= now}
        nodes = self._connected() if due else {}
        together, shared = dict[str, Message](), _packed(b"")
        for site, waiting in due.items():
            if site not in nodes:
                waiting.ask_at, waiting.reason = now + LOOK_FOR_SITES_S, NOT_CONNECTED
                continue
            ttl_s = min(waiting.repeat_s, end - now) if site in still.asked.values() else end - now
            head, payload = split_payload(requests[site])
            if payload != shared.data:
                self._push(still, together, now)
                together, shared = {}, _packed(payload)
            content = RecordDict({"envelope": ArrayRecord({"head": _packed(head), "payload": shared})})
            together[site] = Message(content, nodes[site], "query", ttl=max(1.0, ttl_s))
        self._push(still, together, now)

    def _push(self, still: _Open, messages: Mapping[str, Message], now: float) -> None:
        """Hand messages over to Flower, by site; it says of each whether it took it, or nothing of all."""
        if not messages:
            return
        pushed = tuple(self._grid.push_messages(list(messages.values()))) or (None,) * len(messages)
        for site, identifier in zip(messages, pushed, strict=True):
            waiting = still.waiting[site]
            if identifier is None:
                waiting.ask_at, waiting.reason = now + ASK_AGAIN_S, SITE_FAILED
                continue
            still.asked[identifier] = site
            waiting.ask_at, waiting.reason = now + waiting.repeat_s, str(RefusalCode.DEADLINE)
            waiting.repeat_s = min(2 * waiting.repeat_s, REPEAT_S_MAX)

    def _answers(self, still: _Open) -> Iterator[Delivery]:
        """Replies that are there, pulled one by one: one update in memory at a time, but for what takes long."""
        for identifier in tuple(still.asked):
            if identifier not in still.asked:
                continue  # of a site that has just answered
            pull = still.aside.pop(identifier, None)
            limit_s = PULL_S if pull is None else 0.0
            pull = pull or _Pull(self._grid, identifier)
            if pull.is_done(limit_s):
                yield from self._replies(still, identifier, pull)
            else:
                still.aside[identifier] = pull

    def _replies(self, still: _Open, identifier: str, pull: "_Pull") -> Iterator[Delivery]:
        """What came of one message; nothing where there is no answer yet, or the site will be asked again."""
        for reply in pull.replies():
            site = still.asked.pop(identifier)
            envelope, code = _content(reply)
            if code == RefusalCode.WORKING:
                continue
            if code in PASSING or code == SITE_FAILED:
                if site in still.asked.values():
                    continue  # another message is with the site: this one was a repeat, or will be repeated
                still.waiting[site].ask_at = time.monotonic() + ASK_AGAIN_S
                still.waiting[site].reason = code
                continue
            if code == RefusalCode.WIRE_VERSION:
                self._on_versions(site, _spoken_in(reply))
            still.answered(site)
            del reply  # its bytes are in the envelope
            yield Delivery(site, envelope, code)


class _Pull:
    """One look for replies to a message, in a thread: Flower cannot be told to stop waiting."""

    def __init__(self, grid: Grid, identifier: str) -> None:
        self._found: list[Message] = []
        self._error: Exception | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, args=(grid, identifier), daemon=True).start()

    def is_done(self, within_s: float) -> bool:
        """Whether the look is over, now or soon."""
        return self._done.wait(within_s)

    def replies(self) -> Iterator[Message]:
        """What was found, each handed over. Raises what Flower raised."""
        if self._error is not None:
            raise self._error
        while self._found:
            yield self._found.pop(0)

    def _run(self, grid: Grid, identifier: str) -> None:
        try:
            self._found = list(grid.pull_messages([identifier]))
        except Exception as error:
            self._error = error
        finally:
            self._done.set()


def _look_soon_for_pieces() -> None:
    """Flower, which cannot be told otherwise, looks again after 1, 2, 4, 8, 10 s: long after most pieces came.

    It gives up by the clock, then, not after so many looks: a slow site may send for an hour.
    """
    own = {"initial_backoff": PIECE_S, "backoff_cap": PIECE_S_MAX, "max_tries_per_object": None}
    pull_objects.__kwdefaults__ = {**(pull_objects.__kwdefaults__ or {}), **own}


def _packed(data: bytes) -> Array:
    """Bytes as an array, which Flower sends in pieces, and stores once where it is part of several messages."""
    return Array("uint8", (len(data),), "bytes", data)


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


def _spoken_in(reply: Message) -> tuple[int, ...]:
    """The wire versions that a relay says its site speaks; none where it says nothing sensible."""
    spoken = reply.content.config_records["relay"].get("spoken", [])
    numbers = spoken if isinstance(spoken, list) else []
    return tuple(v for v in numbers[:16] if isinstance(v, int) and 0 < v <= VERSION_MAX)
