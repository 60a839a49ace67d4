"""The ledger of a site: what was changed shows, what a crash left does not, and every answer has its line."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import (
    initial_weights,
    ledger_of,
    make_experiment,
    make_guard,
    make_request,
    make_site_data,
    make_trainer,
    opened,
    site_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg_client import ledger_lines
from medseg_client.ledger import Event, Ledger, read_ledger
from medseg_client.trainer import Trainer
from medseg_core.errors import UnusableFolderError, WireError
from medseg_core.federation_errors import LedgerError
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.signatures import save_key

EXPERIMENT = make_experiment(federation={"rounds": 9})
DATA = make_site_data(train=1)
KEY = site_key("north").public_key()
Lines = list[bytes]


def open_ledger(folder: Path, site: str = "north") -> Ledger:
    return Ledger(folder, site_key(site), keep_payloads_days=7)


def trainer_in(folder: Path, **rules: object) -> Trainer:
    """A trainer as it starts, on what is in the folder."""
    guard = make_guard(folder / "ledger", **rules)
    return make_trainer(folder / "state", EXPERIMENT, DATA, faults=[], guard=guard)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger of four lines."""
    ledger = open_ledger(tmp_path)
    for number in range(4):
        ledger.append(Event(event="repair", torn_bytes=number))
    return tmp_path


def swapped(lines: Lines) -> Lines:
    return [lines[0], lines[2], lines[1], lines[3]]


def resigned(lines: Lines, folder: Path) -> Lines:
    """The second line as somebody with another key would write it."""
    forged = open_ledger(folder / "forged", "mallory")
    for number in range(2):
        forged.append(Event(event="repair", torn_bytes=number))
    forged_lines = (folder / "forged" / "ledger.jsonl").read_bytes().splitlines()
    return [lines[0], forged_lines[1], *lines[2:]]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines, _: lines[1:], 1),
        (lambda lines, _: [lines[0], *lines[2:]], 2),
        (lambda lines, _: swapped(lines), 2),
        (lambda lines, _: [*lines[:2], *lines[1:]], 3),
        (lambda lines, _: [*lines, lines[-1]], 5),
        (lambda lines, _: [*lines[:3], b""], 4),
        (lambda lines, _: lines[:3], 3),
        (lambda lines, _: [], 0),
        (lambda lines, _: [lines[0].replace(b'torn_bytes":0', b'torn_bytes":9'), *lines[1:]], 1),
        (lambda lines, _: [*lines[:3], lines[3].replace(b"{", b"{ ", 1)], 4),
        (lambda lines, _: [*lines[:3], lines[3][:-130] + lines[3][-130:].upper()], 4),
        (resigned, 2),
    ],
    ids=[
        "first removed",
        "one removed",
        "reordered",
        "duplicated",
        "last duplicated",
        "emptied",
        "last cut",
        "all cut",
        "changed",
        "space",
        "case of the signature",
        "another key",
    ],
)
def test_what_was_changed_is_found(folder: Path, change: Callable[[Lines, Path], Lines], line: int) -> None:
    path = folder / "ledger.jsonl"
    changed = change(path.read_bytes().splitlines(), folder)
    path.write_bytes(b"".join(text + b"\n" for text in changed))
    with pytest.raises(LedgerError, match="restore the ledger from a copy") as caught:
        read_ledger(folder, KEY)
    assert caught.value.line == line
    with pytest.raises(LedgerError) as found:  # and the trainer does not start
        open_ledger(folder)
    assert found.value.line == line


def test_a_signature_has_one_spelling(folder: Path) -> None:
    path = folder / "ledger.jsonl"
    (folder / "head").unlink()  # it would tell, too
    honest = path.read_bytes()
    path.write_bytes(honest[:-131] + honest[-131:].upper())
    with pytest.raises(LedgerError):
        read_ledger(folder, KEY)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_byte_can_be_changed(folder: Path, data: st.DataObject) -> None:
    path = folder / "ledger.jsonl"
    honest = path.read_bytes()
    at = data.draw(st.integers(0, len(honest) - 1))
    changed = bytearray(honest)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        path.write_bytes(changed)
        with pytest.raises(LedgerError):
            read_ledger(folder, KEY)
        with pytest.raises(LedgerError):
            open_ledger(folder)
    finally:
        path.write_bytes(honest)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_lines_can_be_moved_doubled_or_left_out(folder: Path, data: st.DataObject) -> None:
    path = folder / "ledger.jsonl"
    honest = path.read_bytes()
    lines = honest.splitlines(keepends=True)
    changed = data.draw(st.lists(st.sampled_from(lines), max_size=8).filter(lambda some: some != lines))
    try:
        path.write_bytes(b"".join(changed))
        with pytest.raises(LedgerError) as full:
            read_ledger(folder, KEY)
        with pytest.raises(LedgerError) as start:
            open_ledger(folder)
        assert start.value.line == full.value.line
    finally:
        path.write_bytes(honest)


def test_a_start_checks_the_signature_at_the_end_and_the_chain_up_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, checked = open_ledger(tmp_path), []
    for number in range(50):
        ledger.append(Event(event="repair", torn_bytes=number))
    parse = ledger_lines._entry_in
    monkeypatch.setattr(
        ledger_lines, "_entry_in", lambda text, key: checked.append(key is not None) or parse(text, key)
    )
    reopened = open_ledger(tmp_path)
    assert (len(checked), sum(checked)) == (50, ledger_lines._HELD)
    checked.clear()
    reading = read_ledger(tmp_path, KEY)
    assert (len(checked), sum(checked)) == (50, 50)
    assert reopened.last == reading.lines[-1]


def test_a_question_about_the_budget_reads_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_in(tmp_path)
    trainer.handle(make_request(EXPERIMENT))
    monkeypatch.setattr(ledger_lines, "_entry_in", None)
    assert opened(trainer.handle(make_request(EXPERIMENT, round=2))).header.direction == "reply"


def test_lines_cut_with_the_note_of_the_last_show_against_a_head_kept_elsewhere(folder: Path) -> None:
    reading = read_ledger(folder, KEY)
    head, older = reading.head, reading.lines[1].sha256
    path = folder / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    (folder / "head").unlink()
    assert len(read_ledger(folder, KEY).lines) == 3
    assert read_ledger(folder, KEY, head=older)
    with pytest.raises(LedgerError, match="lines were cut off"):
        read_ledger(folder, KEY, head=head)


def test_an_absent_ledger_has_no_lines(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "none", KEY).lines == ()
    with pytest.raises(LedgerError):
        read_ledger(tmp_path / "none", KEY, head="0" * 64)


@pytest.mark.parametrize(
    "torn", [b"{", b'{"entry":{"event":"answer"', b"\0" * 300, b'{"ent\0\0\0"}\n', b"\0\n{"]
)
def test_a_line_that_a_crash_left_unfinished_is_no_tampering_and_is_told(folder: Path, torn: bytes) -> None:
    with (folder / "ledger.jsonl").open("ab") as file:
        file.write(torn)
    reading = read_ledger(folder, KEY)
    assert (len(reading.lines), reading.torn) == (4, torn)
    open_ledger(folder)
    (*_, last) = ledger_of(folder)
    assert (last.sequence, last.event, last.torn_bytes) == (5, "repair", len(torn))
    assert read_ledger(folder, KEY, head=reading.head).torn == b""


def test_a_kill_before_the_last_line_was_noted_is_no_tampering(folder: Path) -> None:
    noted = (folder / "head").read_bytes()
    open_ledger(folder).append(Event(event="repair", torn_bytes=1))
    (folder / "head").write_bytes(noted)
    assert len(open_ledger(folder).append(Event(event="repair", torn_bytes=2)).sha256) == 64
    assert len(ledger_of(folder)) == 6


WRITER = """
import sys
from pathlib import Path
from medseg_client.ledger import Event, Ledger
from medseg_core.wire.signatures import load_key
ledger = Ledger(Path(sys.argv[1]), load_key(Path(sys.argv[2])), keep_payloads_days=1)
for number in range(10**6):
    print(ledger.append(Event(event="repair", torn_bytes=number), payload=bytes(number)).sha256, flush=True)
"""


@pytest.mark.parametrize("moment_s", [0.0, 0.003, 0.011])
def test_a_ledger_survives_kill_9_with_every_line_that_it_promised(tmp_path: Path, moment_s: float) -> None:
    save_key(tmp_path / "key", site_key("north"))
    promised: list[str] = []
    for _ in range(2):
        words = [sys.executable, "-c", WRITER, str(tmp_path / "ledger"), str(tmp_path / "key")]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            promised += [process.stdout.readline().strip() for _ in range(5)]
            time.sleep(moment_s)
            process.kill()
            promised += process.stdout.read().split("\n")[:-1]
        known = [line.sha256 for line in read_ledger(tmp_path / "ledger", KEY).lines]
        assert [sha256 for sha256 in known if sha256 in promised] == promised
        assert len(known) <= len(promised) + 2  # a line that was not promised yet, a repair


def test_a_ledger_cut_under_a_running_trainer_takes_no_more(folder: Path) -> None:
    ledger = open_ledger(folder)
    (folder / "ledger.jsonl").write_bytes(b"")
    with pytest.raises(LedgerError, match="while the trainer ran"):
        ledger.append(Event(event="repair", torn_bytes=1))


def test_a_repeated_request_gets_the_stored_bytes_and_one_line_more(tmp_path: Path) -> None:
    request = make_request(EXPERIMENT)
    first = trainer_in(tmp_path).handle(request)
    for _ in range(3):
        assert trainer_in(tmp_path).handle(request) == first
    entries = ledger_of(tmp_path / "ledger")
    assert [entry.event for entry in entries] == ["answer", "repeat"]
    assert entries[1].header == opened(first).header


def test_a_refusal_has_its_line_and_its_repeats_have_none(tmp_path: Path) -> None:
    request = make_request(EXPERIMENT, weights=b"not a model")
    heads = [opened(trainer_in(tmp_path).handle(request)).header.ledger_head for _ in range(3)]
    (entry,) = ledger_of(tmp_path / "ledger")
    assert entry.header is not None
    assert entry.header.code is RefusalCode.MALFORMED
    assert heads == [read_ledger(tmp_path / "ledger", KEY).head] * 3


def test_each_answer_names_its_line(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    asked = [
        make_request(EXPERIMENT, "describe"),
        make_request(EXPERIMENT, round=99),
        make_request(EXPERIMENT),
    ]
    headers = [opened(trainer.handle(request)).header for request in asked]
    lines = read_ledger(tmp_path / "ledger", KEY).lines
    assert [(h.ledger_sequence, h.ledger_head) for h in headers] == [
        (line.entry.sequence, line.sha256) for line in lines
    ]


def test_a_kill_between_line_and_stored_reply_costs_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, request = trainer_in(tmp_path, max_rounds=1), make_request(EXPERIMENT)

    class Killed(BaseException):
        """kill -9, as far as the code can tell."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(killed._state, "commit", die)
    with pytest.raises(Killed):
        killed.handle(request)
    restarted = trainer_in(tmp_path, max_rounds=1)
    assert opened(restarted.handle(request)).header.direction == "reply"  # not charged twice
    other = opened(restarted.handle(make_request(EXPERIMENT, round=2))).header
    assert other.code is RefusalCode.BUDGET_SPENT  # nor for nothing
    assert [entry.event for entry in ledger_of(tmp_path / "ledger")] == ["answer", "answer", "answer"]


def test_nothing_leaves_where_the_ledger_cannot_take_it(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    (tmp_path / "ledger" / "ledger.jsonl").mkdir(parents=True)
    with pytest.raises(WireError):
        trainer.handle(make_request(EXPERIMENT))
    assert not list((tmp_path / "state").rglob("reply.envelope"))


def test_a_ledger_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(UnusableFolderError):
        open_ledger(tmp_path)


def test_tensors_are_kept_by_their_hash_for_the_days_agreed(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, keep_payloads_days=7)
    replies = [opened(trainer.handle(make_request(EXPERIMENT, round=n))) for n in (1, 2)]
    old, new = (tmp_path / "ledger/payloads" / str(r.header.payload_sha256) for r in replies)
    assert (old.read_bytes(), new.read_bytes()) == tuple(r.payload for r in replies)
    long_ago = time.time() - 8 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    trainer.handle(make_request(EXPERIMENT, round=3))
    assert not old.exists()
    assert new.exists()


def test_tensors_are_not_kept_where_that_was_not_wanted(tmp_path: Path) -> None:
    trainer_in(tmp_path, keep_payloads_days=0).handle(make_request(EXPERIMENT))
    assert not (tmp_path / "ledger/payloads").exists()
    assert len(ledger_of(tmp_path / "ledger")) == 1


def test_a_model_scored_is_named_in_the_ledger(tmp_path: Path) -> None:
    request = make_request(
        EXPERIMENT, "evaluate", split="validation", weights=initial_weights(EXPERIMENT, seed=3)
    )
    trainer_in(tmp_path).handle(request)
    assert ledger_of(tmp_path / "ledger")[0].model_sha256 == opened(request).header.payload_sha256
