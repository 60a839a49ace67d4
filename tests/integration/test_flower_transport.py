"""Flower's grid as it really fails: sites that are away, errors for replies, lost and late ones, nodes that lie."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from builders import make_experiment, make_request, opened
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects
from flwr.supercore.task_identity import TaskIdentity

from medseg_core.federation_errors import RunStoppedError
from medseg_core.wire.codes import RefusalCode
from medseg_server import flower_transport
from medseg_server.flower_transport import FlowerTransport
from medseg_server.transport import Delivery, Outbox

EXPERIMENT = make_experiment()
SITES = {"north": 11, "south": 22}  # site: node
REQUESTS = {site: make_request(EXPERIMENT, site=site) for site in SITES}
DEADLINE_S = 5.0
Answer = Callable[[Message], Message | None]


class UsedOfGrid(Grid):
    """Flower's interface; what the transport does not use is not there."""


UsedOfGrid.__abstractmethods__ = frozenset()


@dataclass
class FakeGrid(UsedOfGrid):
    """Superlink and nodes: `answers` are what a site says to its first, second... message; the last one stays."""

    answers: dict[str, list[Answer]]
    away: set[str] = field(default_factory=set)
    pushed: list[str] = field(default_factory=list)  # sites, in order
    replies: dict[str, Message] = field(default_factory=dict)

    def get_nodes(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=s, node_id=n) for s, n in SITES.items() if s not in self.away]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            site = next(s for s, n in SITES.items() if n == message.metadata.dst_node_id)
            identifier = f"{site}-{len(self.pushed)}"
            earlier = self.pushed.count(site)
            self.pushed.append(site)
            own = self.answers[site]
            if (reply := own[min(earlier, len(own) - 1)](message)) is not None:
                self.replies[identifier] = reply
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
        return [self.replies.pop(i) for i in identifiers if i in self.replies]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskIdentity, "_task_id", 1, raising=False)
    monkeypatch.setattr(TaskIdentity, "_run_id", 1, raising=False)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1, raising=False)
    for name, seconds in (
        ("POLL_S", 0.005),
        ("LOOK_FOR_SITES_S", 0.02),
        ("ASK_AGAIN_S", 0.02),
        ("REPEAT_S", 0.05),
    ):
        monkeypatch.setattr(flower_transport, name, seconds)


def echo(message: Message) -> Message:
    """The request itself as the reply's envelope."""
    arrays = message.content.array_records["envelope"]
    content = RecordDict({"envelope": ArrayRecord(dict(arrays)), "relay": ConfigRecord({"code": ""})})
    return Message(content, reply_to=message)


def code(text: str) -> Answer:
    return lambda message: Message(RecordDict({"relay": ConfigRecord({"code": text})}), reply_to=message)


def failed(message: Message) -> Message:
    return Message(Error(5, "/data/patient-7/scan.nii"), reply_to=message)


def silent(message: Message) -> None:
    return None


def exchange(grid: FakeGrid, deadline_s: float = DEADLINE_S) -> dict[str, Delivery]:
    transport = FlowerTransport(grid, wait_for=(), wait_s=0.0)
    return {d.site: d for d in transport.exchange(REQUESTS, deadline_s)}


def test_a_site_is_asked_something_else_at_once_though_others_are_silent() -> None:
    grid = FakeGrid({"north": [echo], "south": [silent]})
    first, other = (make_request(EXPERIMENT, kind, site="north") for kind in ("train", "describe"))
    requests = Outbox({"north": opened(first), "south": opened(REQUESTS["south"])})
    found = []
    for delivery in FlowerTransport(grid, wait_for=(), wait_s=0.0).exchange(requests, 1.0):
        found.append((delivery.site, delivery.envelope))
        if delivery.envelope == first:
            requests.put("north", opened(other))
    assert found == [("north", first), ("north", other), ("south", None)]


def test_every_site_gets_its_own_request_and_replies_come_under_its_name() -> None:
    found = exchange(FakeGrid({site: [echo] for site in SITES}))
    assert {site: d.envelope for site, d in found.items()} == REQUESTS


@pytest.mark.parametrize("first", [failed, code("trainer_away"), silent, code("working")])
def test_a_site_that_fails_or_is_silent_is_asked_again(first: Answer) -> None:
    grid = FakeGrid({"north": [first, echo], "south": [echo]})
    assert exchange(grid)["north"].envelope == REQUESTS["north"]
    assert grid.pushed.count("north") == 2
    assert grid.pushed.count("south") == 1


def test_a_late_reply_to_the_first_message_counts_and_the_second_is_ignored() -> None:
    grid = FakeGrid({"north": [silent], "south": [echo]})
    messages: list[Message] = []

    def late(message: Message) -> None:
        messages.append(message)
        if len(messages) == 3:
            grid.replies["north-0"] = echo(messages[0])

    grid.answers["north"] = [late]
    grid.answers["south"] = [silent, silent, silent, echo]
    found = exchange(grid)
    assert found["north"].envelope == REQUESTS["north"]
    assert found["south"].envelope == REQUESTS["south"]


def test_a_reply_that_never_comes_whole_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower waits minutes for the rest of a reply whose sender was cut off."""
    monkeypatch.setattr(flower_transport, "PULL_S", 0.05)
    grid, release = FakeGrid({"north": [echo, silent, echo], "south": [silent, echo]}), threading.Event()
    pull = grid.pull_messages

    def stuck(identifiers: Iterable[str]) -> list[Message]:
        wanted = list(identifiers)
        if wanted == ["north-0"]:
            release.wait(2 * DEADLINE_S)
            return []
        return pull(wanted)

    monkeypatch.setattr(grid, "pull_messages", stuck)
    began = time.monotonic()
    found = exchange(grid)
    release.set()
    assert {site: d.envelope for site, d in found.items()} == REQUESTS
    assert time.monotonic() - began < DEADLINE_S


def test_a_message_that_flower_does_not_take_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, refused = FakeGrid({site: [echo] for site in SITES}), [[], [None] * len(SITES)]
    push = grid.push_messages
    monkeypatch.setattr(grid, "push_messages", lambda ms: refused.pop() if refused else push(ms))
    assert {site: d.envelope for site, d in exchange(grid).items()} == REQUESTS


@pytest.mark.parametrize(("models", "pushes"), [((b"one", b"one"), [2]), ((b"one", b"two"), [1, 1])])
def test_sites_that_get_the_same_model_are_sent_to_at_once(
    models: tuple[bytes, bytes], pushes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, together = FakeGrid({site: [echo] for site in SITES}), list[int]()
    push = grid.push_messages

    def noted(messages: list[Message]) -> list[str]:
        together.append(len(messages))
        return push(messages)

    monkeypatch.setattr(grid, "push_messages", noted)
    requests = {
        site: make_request(EXPERIMENT, weights=model, site=site)
        for site, model in zip(SITES, models, strict=True)
    }
    found = FlowerTransport(grid, wait_for=(), wait_s=0.0).exchange(requests, DEADLINE_S)
    assert {d.site: d.envelope for d in found} == requests
    assert together == pushes


def test_what_flower_raises_ends_the_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = FakeGrid({site: [echo] for site in SITES})

    def broken(identifiers: Iterable[str]) -> list[Message]:
        raise ConnectionError

    monkeypatch.setattr(grid, "pull_messages", broken)
    with pytest.raises(ConnectionError):
        exchange(grid)


def test_a_repeat_expires_when_the_next_one_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that trains for an hour must not find an hour of repeats afterwards."""
    lives: list[float] = []

    def noted(message: Message) -> None:
        lives.append(message.metadata.ttl)

    grid = FakeGrid({"north": [noted], "south": [echo]})
    monkeypatch.setattr(flower_transport, "REPEAT_S", 0.5)
    exchange(grid, deadline_s=2.0)
    assert lives == pytest.approx([2.0, 1.0, 1.0], abs=0.3)  # at 0, 0.5 and 1.5 s; 1 s is the least


def test_the_error_of_a_repeat_is_no_reason_to_ask_again_while_the_site_works() -> None:
    """Flower answers for a message that expired; the site is still at work on the first."""
    grid = FakeGrid({"north": [silent, failed], "south": [echo]})
    found = exchange(grid, deadline_s=1.0)
    assert found["north"].absence == "deadline"
    assert 3 <= grid.pushed.count("north") <= 6  # at 0, 0.05, 0.15, 0.35 and 0.75 s


def test_repeats_become_rarer() -> None:
    grid = FakeGrid({"north": [silent], "south": [echo]})
    began = time.monotonic()
    exchange(grid, deadline_s=1.0)
    assert time.monotonic() - began < DEADLINE_S
    assert 3 <= grid.pushed.count("north") <= 6  # at 0, 0.05, 0.15, 0.35 and 0.75 s


def test_who_does_not_answer_before_the_deadline_is_absent_with_what_came_of_it() -> None:
    grid = FakeGrid({"north": [silent], "south": [failed]})
    assert {site: d.absence for site, d in exchange(grid, 0.3).items()} == {
        "north": "deadline",
        "south": "site_process_failed",
    }
    grid = FakeGrid({site: [silent] for site in SITES}, away={"north"})
    assert exchange(grid, 0.3)["north"].absence == "not_connected"
    assert "north" not in grid.pushed


def test_a_site_that_comes_back_before_the_deadline_is_asked() -> None:
    grid = FakeGrid({"north": [echo], "south": [echo]}, away={"north"})

    def back(message: Message) -> Message:
        grid.away.clear()
        return echo(message)

    grid.answers["south"] = [back]
    assert exchange(grid)["north"].envelope == REQUESTS["north"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("out_of_memory", "out_of_memory"), ("/data/patient-7/scan.nii", "malformed"), ("", "malformed")],
)
def test_a_code_is_one_of_ours_whatever_the_node_says(text: str, reason: str) -> None:
    found = exchange(FakeGrid({"north": [code(text)], "south": [echo]}))["north"]
    assert (found.envelope, found.absence) == (None, reason)
    assert found.absence in set(RefusalCode)


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"envelope": ConfigRecord({"head": "x"})},
        {"envelope": ArrayRecord({"head": Array("uint8", (1,), "bytes", b"x")})},
    ],
)
def test_a_message_without_an_envelope_is_malformed(records: dict[str, ConfigRecord]) -> None:
    def lie(message: Message) -> Message:
        return Message(RecordDict(dict(records)), reply_to=message)

    assert exchange(FakeGrid({"north": [lie], "south": [echo]}))["north"].absence == "malformed"


@pytest.mark.parametrize(("said", "heard"), [([2, 3], (2, 3)), ([], ()), ([-1, 2**40, 4], (4,))])
def test_of_a_site_with_other_wire_versions_they_are_told(said: list[int], heard: tuple[int, ...]) -> None:
    def other(message: Message) -> Message:
        record = ConfigRecord({"code": "wire_version", "spoken": said})
        return Message(RecordDict({"relay": record}), reply_to=message)

    told: list[tuple[str, tuple[int, ...]]] = []
    grid = FakeGrid({"north": [other], "south": [echo]})
    transport = FlowerTransport(
        grid, wait_for=(), wait_s=0.0, on_versions=lambda site, spoken: told.append((site, spoken))
    )
    found = {d.site: d for d in transport.exchange(REQUESTS, DEADLINE_S)}
    assert found["north"].absence == "wire_version"
    assert told == [("north", heard)]


def test_who_is_enrolled_is_waited_for_but_not_for_ever() -> None:
    told: list[tuple[str, ...]] = []
    grid = FakeGrid({site: [echo] for site in SITES}, away={"north"})
    transport = FlowerTransport(
        grid,
        wait_for=tuple(SITES),
        wait_s=0.2,
        on_waiting=told.append,
    )
    assert transport.sites() == ("south",)
    assert told == [("north",)]
    grid.away.clear()
    assert transport.sites() == ("north", "south")


def test_a_stopped_run_ends_wherever_it_waits() -> None:
    grid = FakeGrid({site: [silent] for site in SITES}, away={"north"})
    transport = FlowerTransport(grid, wait_for=tuple(SITES), wait_s=DEADLINE_S, is_stopped=lambda: True)
    with pytest.raises(RunStoppedError):
        list(transport.exchange(REQUESTS, DEADLINE_S))
    with pytest.raises(RunStoppedError):
        transport.sites()


def test_a_piece_that_a_site_is_still_sending_is_looked_for_again_soon():
    FlowerTransport(FakeGrid({}), wait_for=(), wait_s=0.0)
    looks = 0

    def pull(identifier: str) -> bytes:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise ObjectUnavailableError(identifier)
        return b"piece"

    begun = time.monotonic()
    assert pull_objects(["a"], pull) == {"a": b"piece"}
    assert time.monotonic() - begun < 1.5  # 0.75 s; Flower's own 1 + 2 s
