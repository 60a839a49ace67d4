"""Every round names who contributed and who did not and why; what is not acceptable leaves no trace in the model."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from builders import (
    Answering,
    ScriptedTransport,
    constant_update,
    initial_weights,
    make_experiment,
    make_run,
    newest_sha256,
    opened,
    scripted_site,
    site_key,
)

from medseg_core.config import Experiment
from medseg_core.federation.codec import encode_tensors
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope, seal
from medseg_core.wire.header import Header, new_nonce, refusal_to
from medseg_server.errors import (
    QuorumError,
    RequiredSiteError,
    SiteAnswersError,
    UnreachableQuorumError,
)
from medseg_server.participation import choose_participants
from medseg_server.rounds import Run, train

EXPERIMENT = make_experiment(federation={"rounds": 2, "quorum": 1, "max_update_norm": 50.0})
SITES = ("north", "south", "west")


def honest(site: str) -> Answering:
    return scripted_site(site, constant_update(EXPERIMENT, 0.125), cases=1 + SITES.index(site))


def at_round(number: int, answer: Answering, otherwise: Answering) -> Answering:
    """One answer to training in one round, another one to everything else."""

    def answering(request: Envelope) -> bytes | list[bytes] | None:
        is_it = request.header.kind == "train" and request.header.round == number
        return (answer if is_it else otherwise)(request)

    return answering


def run_with_south(folder: Path, answer: Answering, experiment: Experiment = EXPERIMENT) -> Run:
    """A run of three sites in which south answers round 1 in its own way."""
    answers = {site: honest(site) for site in SITES}
    return make_run(
        folder, experiment, ScriptedTransport({**answers, "south": at_round(1, answer, answers["south"])})
    )


def resealed(**changes: object) -> Answering:
    """South's honest reply with another header, signed by south."""

    def answer(request: Envelope) -> bytes:
        reply = opened(honest("south")(request))
        header = Header.model_validate(reply.header.model_dump() | changes)
        return seal(header, reply.payload, site_key("south")).to_bytes()

    return answer


def updating(spoil: Callable[[dict], dict]) -> Answering:
    """South's reply with other tensors."""

    def answer(request: Envelope) -> bytes:
        reply = opened(honest("south")(request))
        tensors = spoil(dict(constant_update(EXPERIMENT, 0.125)(request)))
        return seal(reply.header, safetensors.numpy.save(tensors), site_key("south")).to_bytes()

    return answer


def replaced(value: np.ndarray) -> Callable[[dict], dict]:
    return lambda tensors: tensors | {next(iter(tensors)): value}


def signed_by_north(request: Envelope) -> bytes:
    reply = opened(honest("south")(request))
    return seal(reply.header, reply.payload, site_key("north")).to_bytes()


def no_tensors(request: Envelope) -> bytes:
    reply = opened(honest("south")(request))
    return seal(reply.header, b"no tensors", site_key("south")).to_bytes()


def refusal(request: Envelope) -> bytes:
    return seal(refusal_to(request.header, RefusalCode.OUT_OF_MEMORY), b"", site_key("south")).to_bytes()


def with_header(**changes: object) -> Answering:
    """South's reply with a header that no honest program can make, truly signed by south."""

    def answer(request: Envelope) -> bytes:
        reply = opened(honest("south")(request))
        header = json.dumps(json.loads(reply.header_bytes) | changes).encode()
        signature = site_key("south").sign(b"medseg envelope 1\x00" + header)
        frame = struct.pack(">6sHIQ", b"MEDSEG", 1, len(header), len(reply.payload))
        return frame + header + signature + reply.payload

    return answer


def with_payload(spoil: Callable[[bytes], bytes]) -> Answering:
    """South's reply with other bytes for tensors, truly signed by south."""

    def answer(request: Envelope) -> bytes:
        reply = opened(honest("south")(request))
        return seal(reply.header, spoil(bytes(reply.payload)), site_key("south")).to_bytes()

    return answer


def at_byte(place: int) -> Answering:
    """South's reply with one bit of a byte flipped on its way; a negative place counts from the end."""

    def answer(request: Envelope) -> bytes:
        reply = bytearray(honest("south")(request))
        reply[place] ^= 1
        return bytes(reply)

    return answer


def without_signature(request: Envelope) -> bytes:
    reply = opened(honest("south")(request))
    return Envelope(reply.header_bytes, bytes(64), reply.payload).to_bytes()


def first_as(shape: tuple[int, ...], start: int, end: int) -> Callable[[bytes], bytes]:
    """A payload whose table says something else of the first tensor; the numbers stay."""
    entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}

    def spoil(payload: bytes) -> bytes:
        (length,) = struct.unpack("<Q", payload[:8])
        table = json.dumps(json.loads(payload[8 : 8 + length]) | {FIRST_NAME: entry}).encode()
        return struct.pack("<Q", len(table)) + table + payload[8 + length :]

    return spoil


FIRST = next(iter(initial_weights(EXPERIMENT).values()))
FIRST_NAME = next(iter(initial_weights(EXPERIMENT)))
ONE_NINE = np.where(np.arange(FIRST.size) == 0, np.float32(9), np.float32(0)).reshape(FIRST.shape)
ONE_INFINITE = np.where(ONE_NINE == 9, -np.inf, FIRST).astype(np.float32)
UNACCEPTABLE: dict[str, tuple[Answering, str]] = {
    "silence": (lambda request: None, "deadline"),
    "a refusal": (refusal, "out_of_memory"),
    "more cases than described": (resealed(counts={"cases": 99}), "bad_count"),
    "no count": (resealed(counts={}), "bad_count"),
    "NaN": (updating(replaced(np.full_like(FIRST, np.nan))), "not_finite"),
    "infinity": (updating(replaced(np.full_like(FIRST, np.inf))), "not_finite"),
    "a huge norm": (updating(replaced(np.full_like(FIRST, 7.0e3))), "norm_exceeded"),
    "more than the sum can hold": (updating(replaced(ONE_NINE)), "overflow"),
    "another shape": (updating(replaced(np.zeros(3, np.float32))), "wrong_shape"),
    "another precision": (updating(replaced(FIRST.astype(np.float64))), "wrong_dtype"),
    "minus infinity in one number": (updating(replaced(ONE_INFINITE)), "not_finite"),
    "half precision": (updating(replaced(FIRST.astype(np.float16))), "wrong_dtype"),
    "integers": (updating(replaced(FIRST.astype(np.int32))), "wrong_dtype"),
    "a shape with the axes exchanged": (updating(replaced(np.ones((*FIRST.shape, 1), np.float32))), "wrong_shape"),
    "an empty tensor": (updating(replaced(np.zeros((0, *FIRST.shape[1:]), np.float32))), "wrong_shape"),
    "a tensor under another name": (
        updating(lambda t: {name.upper() if name == min(t) else name: a for name, a in t.items()}),
        "missing_tensor",
    ),
    "no tensor in a right file": (with_payload(lambda p: safetensors.numpy.save({})), "missing_tensor"),
    "tensors cut short": (with_payload(lambda p: p[:-4]), "corrupt_payload"),
    "tensors with a tail": (with_payload(lambda p: p + b"more"), "corrupt_payload"),
    "a table longer than the file": (with_payload(lambda p: struct.pack("<Q", 2**62) + p[8:]), "corrupt_payload"),
    "tensors that overlap": (with_payload(first_as(FIRST.shape, 4, 4 + FIRST.nbytes)), "corrupt_payload"),
    "a shape that no memory holds": (with_payload(first_as((2**40, 2**40), 0, FIRST.nbytes)), "corrupt_payload"),
    "zero cases": (resealed(counts={"cases": 0}), "bad_count"),
    "a negative count": (with_header(counts={"cases": -3}), "malformed"),
    "a count that is no whole number": (with_header(counts={"cases": 1.5}), "malformed"),
    "free text": (with_header(note="patient 7"), "malformed"),
    "another wire version": (with_header(wire=9), "wire_version"),
    "another task": (resealed(task="other"), "stale_round"),
    "another experiment": (resealed(experiment_sha256="0" * 64), "stale_round"),
    "no signature": (without_signature, "bad_signature"),
    "a bit flipped in the tensors": (at_byte(-1), "malformed"),
    "a bit flipped in the header": (at_byte(25), "malformed"),
    "a tensor too few": (updating(lambda t: dict(list(t.items())[1:])), "missing_tensor"),
    "a tensor too many": (updating(lambda t: t | {"extra": FIRST}), "extra_tensor"),
    "no tensors at all": (no_tensors, "corrupt_payload"),
    "a foreign signature": (signed_by_north, "bad_signature"),
    "bytes cut short": (lambda r: honest("south")(r)[:-9], "malformed"),
    "garbage": (lambda r: b"garbage", "malformed"),
    "a reply meant for another site": (resealed(site="west"), "foreign_site"),
    "a reply of another run": (resealed(run="other"), "unknown_run"),
    "a reply of an earlier round": (resealed(round=0), "stale_round"),
    "a reply of another attempt": (resealed(attempt=7), "stale_round"),
    "a reply to another request": (resealed(in_reply_to=new_nonce()), "repeated"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNACCEPTABLE)
def test_what_is_not_acceptable_is_recorded_and_the_model_is_as_if_the_site_had_been_away(
    tmp_path: Path, name: str
) -> None:
    answer, reason = UNACCEPTABLE[name]
    run, away = run_with_south(tmp_path / "a", answer), run_with_south(tmp_path / "b", lambda request: None)
    trained = train(run)
    train(away)
    assert trained.history[0]["absent"] == {"south": reason}
    assert sorted(trained.history[0]["contributed"]) == ["north", "west"]
    assert sorted(trained.history[1]["contributed"]) == ["north", "south", "west"]
    assert [(e["site"], e["reason"]) for e in run.store.events("rejected")] == [("south", reason)]
    assert newest_sha256(run.store) == newest_sha256(away.store)


def test_a_reply_of_an_earlier_round_sent_again_is_not_counted(tmp_path: Path) -> None:
    replies: list[bytes] = []

    def replaying(request: Envelope) -> bytes:
        if request.header.kind != "train":
            return honest("south")(request)
        replies.append(honest("south")(request))
        return replies[0]

    answers = {site: honest(site) for site in SITES} | {"south": replaying}
    trained = train(make_run(tmp_path, EXPERIMENT, ScriptedTransport(answers)))
    assert trained.history[1]["absent"] == {"south": "stale_round"}


@pytest.mark.parametrize("arrivals", ["first forged", "first honest", "twice", "after garbage and a replay"])
def test_what_comes_besides_a_site_s_answer_neither_counts_nor_keeps_it_out(
    tmp_path: Path, arrivals: str
) -> None:
    def answer(request: Envelope) -> list[bytes]:
        true = honest("south")(request)
        forged = signed_by_north(request)
        return {
            "first forged": [forged, true],
            "first honest": [true, forged],
            "twice": [true, true],
            "after garbage and a replay": [b"garbage", resealed(round=0)(request), true],
        }[arrivals]

    run, plain = run_with_south(tmp_path / "a", answer), run_with_south(tmp_path / "b", honest("south"))
    assert train(run).history[0]["absent"] == {}
    train(plain)
    assert newest_sha256(run.store) == newest_sha256(plain.store)


def test_a_round_below_its_quorum_is_not_taken(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"rounds": 2, "quorum": 3})
    run = run_with_south(tmp_path, refusal, experiment)
    with pytest.raises(
        QuorumError, match=r"round 1: 2 of the 3 sites.*south \(out_of_memory\).*resume the run"
    ):
        train(run)
    (failed,) = run.store.events("round_failed")
    assert list(failed["contributed"]) == ["north", "west"]
    assert failed["absent"] == {"south": "out_of_memory"}
    assert not (run.store.checkpoints / "round_0001").exists()


def test_by_default_every_site_is_the_quorum(tmp_path: Path) -> None:
    with pytest.raises(QuorumError):
        train(run_with_south(tmp_path, lambda request: None, make_experiment()))


def test_a_run_goes_on_where_its_quorum_failed_once_the_site_is_back(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"rounds": 2})
    with pytest.raises(QuorumError):
        train(run_with_south(tmp_path / "a", refusal, experiment))
    again, undisturbed = (run_with_south(tmp_path / f, honest("south"), experiment) for f in "ab")
    train(again)
    train(undisturbed)
    assert newest_sha256(again.store) == newest_sha256(undisturbed.store)


def conflicting_up_to(last: int) -> Answering:
    """South, which answered attempts up to `last` to a coordinator that has since gone back to a backup."""

    def answer(request: Envelope) -> bytes | list[bytes] | None:
        if request.header.kind != "train" or request.header.attempt > last:
            return honest("south")(request)
        refused = refusal_to(request.header, RefusalCode.CONFLICTING_REQUEST)
        return seal(refused, b"", site_key("south")).to_bytes()

    return answer


def test_a_coordinator_from_a_backup_finds_an_attempt_that_sites_have_not_seen(tmp_path: Path) -> None:
    strict = make_experiment(federation={"rounds": 2, "max_update_norm": 50.0})
    restored = run_with_south(tmp_path / "restored", conflicting_up_to(2), strict)
    undisturbed = run_with_south(tmp_path / "undisturbed", honest("south"), strict)

    train(restored)
    train(undisturbed)

    assert newest_sha256(restored.store) == newest_sha256(undisturbed.store)
    attempts = [e["attempt"] for e in restored.store.events("round_started") if e["round"] == 1]
    assert attempts == [1, 2, 3]
    assert len(restored.store.events("round_failed")) == 2


def test_a_site_that_has_seen_every_attempt_stops_the_run_all_the_same(tmp_path: Path) -> None:
    strict = make_experiment(federation={"rounds": 2, "max_update_norm": 50.0})

    with pytest.raises(QuorumError, match=r"south \(conflicting_request\)"):
        train(run_with_south(tmp_path, conflicting_up_to(1_000), strict))


def test_a_required_site_that_fails_stops_the_run(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"quorum": 1, "required_sites": ["south"]})
    with pytest.raises(RequiredSiteError, match=r"south \(out_of_memory\)"):
        train(run_with_south(tmp_path, refusal, experiment))


def test_a_required_site_that_was_never_there_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"quorum": 1, "required_sites": ["hospital-9"]})
    run = run_with_south(tmp_path, honest("south"), experiment)
    with pytest.raises(RequiredSiteError, match=r"hospital-9 \(not enrolled\)"):
        train(run)
    assert not run.store.events("round_started")


@pytest.mark.parametrize("federation", [{"quorum": 4}, {"quorum": 3, "participants": 2}])
def test_a_quorum_that_no_round_can_reach_is_said_before_anybody_trains(
    tmp_path: Path, federation: dict
) -> None:
    run = run_with_south(tmp_path, honest("south"), make_experiment(federation=federation))
    told = r"quorum = [34], but [23] sites are asked in a round\. Lower the quorum, .* or raise participants"
    with pytest.raises(UnreachableQuorumError, match=told):
        train(run)
    assert not run.store.events("round_started")


def test_updates_weigh_by_cases_and_the_record_says_how_many(tmp_path: Path) -> None:
    trained = train(run_with_south(tmp_path, honest("south")))
    contributed = trained.history[0]["contributed"]
    assert {site: facts["cases"] for site, facts in contributed.items()} == {
        "north": 1,
        "south": 2,
        "west": 3,
    }
    model_bytes = len(encode_tensors(initial_weights(EXPERIMENT)))
    for facts in contributed.values():
        assert model_bytes < facts["bytes_up"] < model_bytes + 2048
        assert model_bytes < facts["bytes_down"] < model_bytes + 2048
        assert facts["seconds"] >= 0


def test_participants_are_drawn_by_seed_and_round_alone() -> None:
    experiment = make_experiment(federation={"participants": 2, "seed": 3})
    drawn = [choose_participants(experiment, SITES, number) for number in range(1, 30)]
    assert drawn == [choose_participants(experiment, SITES[::-1], number) for number in range(1, 30)]
    assert all(len(sites) == 2 for sites in drawn)
    assert {site for sites in drawn for site in sites} == set(SITES)
    other = make_experiment(federation={"participants": 2, "seed": 4})
    assert drawn != [choose_participants(other, SITES, number) for number in range(1, 30)]


def test_only_the_participants_of_a_round_are_sent_the_model_to_train(tmp_path: Path) -> None:
    experiment = make_experiment(federation={"rounds": 4, "participants": 2})
    run = run_with_south(tmp_path, honest("south"), experiment)
    train(run)
    for number in range(1, 5):
        asked = {
            e.header.site for e in run.transport.sent if e.header.kind == "train" and e.header.round == number
        }
        assert asked == set(choose_participants(experiment, SITES, number))


def test_a_train_request_names_the_last_update_of_that_site_that_counted(tmp_path: Path) -> None:
    run = run_with_south(tmp_path, refusal, make_experiment(federation={"rounds": 3, "quorum": 1}))
    train(run)
    counted = {
        (e.header.site, e.header.round): e.header.counted_round
        for e in run.transport.sent
        if e.header.kind == "train"
    }
    assert [counted["north", n] for n in (1, 2, 3)] == [0, 1, 2]
    assert [counted["south", n] for n in (1, 2, 3)] == [0, 0, 2]


def test_a_site_without_a_key_is_sent_nothing(tmp_path: Path) -> None:
    transport = ScriptedTransport({site: honest(site) for site in SITES})
    trained = train(make_run(tmp_path, EXPERIMENT, transport, sites=("north", "south")))
    assert sorted(trained.cases) == ["north", "south"]
    assert {envelope.header.site for envelope in transport.sent} == {"north", "south"}


@pytest.mark.parametrize(
    "counts",
    [{}, {"train_cases": 0, "validation_cases": 1}, {"train_cases": 2}],
    ids=["nothing", "no case to train on", "no word of validation"],
)
def test_a_description_that_cannot_be_used_names_its_site(tmp_path: Path, counts: dict[str, int]) -> None:
    answers = {site: honest(site) for site in SITES} | {"south": resealed(counts=counts)}
    with pytest.raises(SiteAnswersError, match=r"'describe' from south \(bad_count\)"):
        train(make_run(tmp_path, EXPERIMENT, ScriptedTransport(answers)))


def test_a_run_without_any_site_says_so(tmp_path: Path) -> None:
    with pytest.raises(SiteAnswersError, match="any site"):
        train(make_run(tmp_path, EXPERIMENT, ScriptedTransport({})))
