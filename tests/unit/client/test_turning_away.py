"""Bytes that are no request of the coordinator: the hospital sees that they came, and a flood fills no disk."""

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from builders import (
    ledger_of,
    make_experiment,
    make_guard,
    make_request,
    make_site_data,
    make_trainer,
    site_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from medseg_client.chunks import cut
from medseg_client.ledger import Entry, Event, Ledger, read_ledger
from medseg_client.ledger_table import table
from medseg_client.protocol.trainer_pb2 import Chunk
from medseg_client.trainer_service import serving
from medseg_client.turned_away import HOUR_S, LINES_AN_HOUR
from medseg_core.errors import WireError
from medseg_core.files import sha256_of
from medseg_core.wire.codes import RefusalCode

EXPERIMENT = make_experiment()
KEY = site_key("north").public_key()
LONG_S = 30.0


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return opened_at(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; a test moves it by changing its only item."""
    now = [time.time()]

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return dt.datetime.fromtimestamp(now[0], tz)

    monkeypatch.setattr("medseg_client.ledger.time.time", lambda: now[0])
    monkeypatch.setattr("medseg_client.ledger.dt.datetime", Clock)
    return now


def opened_at(folder: Path) -> Ledger:
    return Ledger(folder, site_key("north"), keep_payloads_days=0)


def refused(folder: Path) -> list[Entry]:
    return [entry for entry in ledger_of(folder) if entry.event == "refused"]


def flood(ledger: Ledger, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        ledger.turn_away(str(number).encode(), RefusalCode.MALFORMED)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """The folder of a trainer on a socket, with a ledger."""
    guard = make_guard(tmp_path / "ledger")
    trainer = make_trainer(tmp_path / "state", EXPERIMENT, make_site_data(), guard=guard, faults=[])
    with serving(trainer, tmp_path / "t.sock"):
        yield tmp_path


def say(folder: Path, data: bytes, method: str = "Train") -> str:
    """The code that bytes get on the socket."""
    messages = [chunk.SerializeToString() for chunk in cut(data)]
    return say_raw(folder, messages, method)


def say_raw(folder: Path, messages: list[bytes], method: str) -> str:
    with grpc.insecure_channel(f"unix:{folder / 't.sock'}") as channel:
        call = channel.stream_stream(f"/medseg.trainer.v1.Trainer/{method}")(iter(messages), timeout=LONG_S)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        return str(caught.value.details())


@pytest.mark.parametrize(
    ("data", "method", "code"),
    [
        (b"let me in", "Train", RefusalCode.MALFORMED),
        (make_request(EXPERIMENT, key=site_key("mallory")), "Train", RefusalCode.BAD_SIGNATURE),
        (make_request(EXPERIMENT, site="south"), "Train", RefusalCode.FOREIGN_SITE),
        (make_request(EXPERIMENT), "Describe", RefusalCode.MALFORMED),
        (make_request(EXPERIMENT)[:-1], "Train", RefusalCode.MALFORMED),
        (b"", "Publish", RefusalCode.MALFORMED),
    ],
    ids=["no envelope", "wrong signature", "foreign site", "another kind", "cut short", "nothing"],
)
def test_what_gets_a_bare_code_gets_a_line(served: Path, data: bytes, method: str, code: RefusalCode) -> None:
    assert say(served, data, method) == code
    (entry,) = ledger_of(served / "ledger")
    assert (entry.event, entry.code, entry.n_bytes) == ("refused", code, len(data))
    assert entry.request_sha256 == sha256_of(data)
    assert entry.header is None


def test_what_is_no_chunk_is_entered_with_what_came_before_it(served: Path) -> None:
    say_raw(served, [Chunk(data=b"first ").SerializeToString(), b"\xff\xff"], "Train")
    (entry,) = ledger_of(served / "ledger")
    assert (entry.n_bytes, entry.request_sha256) == (8, sha256_of(b"first \xff\xff"))


def test_the_same_bytes_have_one_line_also_after_a_restart(tmp_path: Path, ledger: Ledger) -> None:
    for _ in range(3):
        ledger.turn_away(b"again", RefusalCode.MALFORMED)
        ledger = opened_at(tmp_path)
    ledger.close()
    assert len(ledger_of(tmp_path)) == 1


def test_a_request_that_is_at_work_is_no_attempt(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, EXPERIMENT, make_site_data(), guard=make_guard(tmp_path / "ledger"), faults=[]
    )
    trainer.turn_away(make_request(EXPERIMENT), WireError(RefusalCode.WORKING, "too early"))
    assert ledger_of(tmp_path / "ledger") == []


def test_a_flood_gives_few_lines_and_one_that_counts_the_rest(
    tmp_path: Path, ledger: Ledger, clock: list[float]
) -> None:
    flood(ledger, LINES_AN_HOUR + 70)
    assert len(refused(tmp_path)) == LINES_AN_HOUR
    ledger.append(Event(event="repair", torn_bytes=1))  # an honest answer finds its place, at once
    assert len(ledger_of(tmp_path)) == LINES_AN_HOUR + 1
    clock[0] += HOUR_S + 1
    ledger.append(Event(event="repair", torn_bytes=1))
    assert [entry.n_more for entry in ledger_of(tmp_path)[-2:]] == [70, None]


def test_a_flood_that_goes_on_gets_no_more_lines_an_hour(
    tmp_path: Path, ledger: Ledger, clock: list[float]
) -> None:
    for hour in range(3):
        flood(ledger, 100, start=100 * hour)
        clock[0] += HOUR_S + 1
    ledger.close()
    entries = refused(tmp_path)
    assert len(entries) == 3 * LINES_AN_HOUR + 1
    told = sum(entry.n_more or 1 for entry in entries)
    assert told == 300


def test_a_restart_gives_a_flood_no_new_room(tmp_path: Path, ledger: Ledger) -> None:
    flood(ledger, LINES_AN_HOUR)
    flood(opened_at(tmp_path), 50, start=1000)
    assert len(ledger_of(tmp_path)) == LINES_AN_HOUR


def test_a_trainer_that_ends_enters_what_it_only_counted(tmp_path: Path, ledger: Ledger) -> None:
    flood(ledger, LINES_AN_HOUR + 3)
    ledger.close()
    ledger.close()
    assert [entry.n_more for entry in ledger_of(tmp_path)[LINES_AN_HOUR - 1 :]] == [None, 3]


def test_a_ledger_that_takes_no_line_does_not_keep_the_code_back(served: Path) -> None:
    (served / "ledger" / "ledger.jsonl").mkdir(parents=True)
    assert say(served, b"let me in") == RefusalCode.MALFORMED


def test_attempts_are_shown_to_people(tmp_path: Path, ledger: Ledger) -> None:
    flood(ledger, LINES_AN_HOUR + 7)
    ledger.close()
    console = Console(width=300)
    with console.capture() as capture:
        console.print(table(read_ledger(tmp_path, KEY).lines))
    shown = capture.get()
    assert f"not taken for a request: malformed; 1 bytes, SHA-256 {sha256_of(b'0')}" in shown
    assert "7 more were not taken" in shown


attempts = st.tuples(st.binary(max_size=3), st.sampled_from([RefusalCode.MALFORMED, RefusalCode.TOO_LARGE]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(attempts, st.integers(0, 9), st.just("restart")), max_size=60))
def test_lines_of_all_kinds_in_any_order_hold_and_stay_few(
    tmp_path_factory: pytest.TempPathFactory, steps: list[object]
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    ledger, answers = opened_at(folder), 0
    for step in steps:
        match step:
            case "restart":
                ledger = opened_at(folder)
            case int():
                ledger.append(Event(event="repair", torn_bytes=step))
                answers += 1
            case (data, code):
                ledger.turn_away(data, code)
    entries = ledger_of(folder)
    assert len(entries) - answers == len(refused(folder)) <= LINES_AN_HOUR
    listed = [(entry.request_sha256, entry.code) for entry in refused(folder)]
    assert len(listed) == len(set(listed))
