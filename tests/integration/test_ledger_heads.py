"""The coordinator keeps where every answer stands in its site's ledger; lines that a site cuts off show against it."""

from pathlib import Path

import pytest
from builders import (
    COORDINATOR_KEY,
    ScriptedTransport,
    ledger_of,
    make_experiment,
    make_guard,
    make_run,
    make_site_data,
    make_trainer,
    opened,
    site_key,
)
from enrolment import make_server, make_site

from medseg_client.ledger import read_ledger
from medseg_client.models import Models
from medseg_core.federation_errors import LedgerError
from medseg_core.wire.signatures import fingerprint, public_key_of
from medseg_server.conduct import conduct
from medseg_server.enrolling import enrol
from medseg_server.errors import QuorumError
from medseg_server.ledgers import Head, newest_heads, newest_of
from medseg_server.membership import standings
from medseg_server.rounds import Run
from medseg_server.run_store import RunStore
from medseg_server.server_folder import ServerFolder

EXPERIMENT = make_experiment()
KEY = site_key("north").public_key()


def run_of(folder: Path, **rules: object) -> Run:
    """A run of site north, which has a policy and a ledger in `folder`/ledger."""
    trainer = make_trainer(
        folder / "state",
        EXPERIMENT,
        make_site_data(test=3),
        faults=[],
        guard=make_guard(folder / "ledger", **rules),
        models=Models(folder / "models", COORDINATOR_KEY.public_key()),
    )
    transport = ScriptedTransport({"north": lambda request: trainer.handle(request.to_bytes())})
    return make_run(folder / "run", EXPERIMENT, transport)


def test_every_answer_of_a_run_is_written_down_with_its_line(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    conduct(run)
    events = run.store.events("ledger")
    assert [event["kind"] for event in events] == [
        "describe",
        "train",
        "train",
        "evaluate",
        "evaluate",
        "publish",
    ]
    lines = read_ledger(tmp_path / "ledger", KEY).lines
    assert [(e["sequence"], e["sha256"]) for e in events] == [(n.entry.sequence, n.sha256) for n in lines]
    assert {(e["site"], e["code"], e["signed_by"]) for e in events} == {("north", None, fingerprint(KEY))}


def test_a_refusal_is_written_down_too(tmp_path: Path) -> None:
    run = run_of(tmp_path, max_rounds=1)
    with pytest.raises(QuorumError):
        conduct(run)
    last = run.store.events("ledger")[-1]
    assert (last["kind"], last["code"]) == ("train", "budget_spent")
    assert last["sequence"] == ledger_of(tmp_path / "ledger")[-1].sequence


def test_lines_cut_after_any_answer_show_against_what_was_kept(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    conduct(run)
    head = newest_of(run.store.events("ledger"))["north"]
    assert read_ledger(tmp_path / "ledger", KEY, head=head.sha256).head == head.sha256
    path = tmp_path / "ledger" / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))  # the receipt of the model
    (tmp_path / "ledger" / "head").unlink()
    assert read_ledger(tmp_path / "ledger", KEY)
    with pytest.raises(LedgerError, match="lines were cut off"):
        read_ledger(tmp_path / "ledger", KEY, head=head.sha256)


def test_a_simulated_site_keeps_no_ledger_and_nothing_is_written_down(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "state", EXPERIMENT, make_site_data())
    answer = trainer.handle
    run = make_run(tmp_path / "run", EXPERIMENT, ScriptedTransport({"north": lambda r: answer(r.to_bytes())}))
    headers = {"north": run.header("describe", "north", 0, 1)}
    (told,) = run.ask(headers, {"north": b""}, deadline_s=9.0)
    assert opened(told.reply.to_bytes()).header.ledger_head is None
    assert run.store.events("ledger") == []


def test_a_stored_answer_that_is_sent_again_is_not_the_newest_line() -> None:
    events = [{"site": "north", "sequence": n, "sha256": str(n)} for n in (4, 7, 5)]
    assert newest_of(events) == {"north": Head(7, "7")}


@pytest.fixture
def server(tmp_path: Path) -> ServerFolder:
    return make_server(tmp_path / "server")


def enrolled(server: ServerFolder, folder: Path) -> str:
    """Enrol north with the keys of a new folder; their fingerprint in events."""
    _, request = make_site(folder)
    enrol(server, request)
    return fingerprint(public_key_of(request.signing_key))


def told(server: ServerFolder, run: str, sequence: int, signed_by: str) -> None:
    store = RunStore(server.run(run))
    store.open(EXPERIMENT, run=run, resume=True)
    store.event("ledger", site="north", sequence=sequence, sha256=f"{sequence:064d}", signed_by=signed_by)


def test_the_newest_line_over_all_runs_stands_beside_a_site(server: ServerFolder, tmp_path: Path) -> None:
    key = enrolled(server, tmp_path / "north")
    assert standings(server, None)[0].ledger is None
    told(server, "first", 30, key)
    told(server, "second", 12, key)
    (standing,) = standings(server, None)
    assert standing.ledger == Head(30, f"{30:064d}")
    assert standing.to_json()["ledger"] == {"sequence": 30, "sha256": f"{30:064d}"}


def test_a_site_with_new_keys_begins_a_new_ledger(server: ServerFolder, tmp_path: Path) -> None:
    told(server, "first", 30, enrolled(server, tmp_path / "before"))
    key = enrolled(server, tmp_path / "after")
    assert newest_heads(server) == {}
    told(server, "second", 2, key)
    assert newest_heads(server)["north"].sequence == 2
