"""An honest envelope arrives as it was sent."""

import hashlib
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medseg_core.errors import WireError
from medseg_core.wire.codes import SENTENCES, RefusalCode
from medseg_core.wire.envelope import Envelope, seal, verify
from medseg_core.wire.header import Header, new_nonce, refusal_to, reply_to

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
LIMIT = 1 << 24


def make_header(**fields: object) -> Header:
    whole: dict[str, object] = {
        "kind": "train",
        "direction": "request",
        "run": "run-1",
        "round": 3,
        "site": "north",
        "nonce": "0" * 32,
        "task": "hippocampus",
        "experiment_sha256": "a" * 64,
    }
    return Header.model_validate({**whole, **fields})


figures = st.dictionaries(
    st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_./:-]{0,40}\Z"),
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    max_size=5,
)


@given(payload=st.binary(min_size=1, max_size=300), scalars=figures)
def test_header_payload_and_figures_arrive_as_sent(payload: bytes, scalars: dict[str, float | None]) -> None:
    sent = seal(make_header(scalars=scalars, counts={"cases": 7}), payload, KEY)
    received = Envelope.from_bytes(sent.to_bytes(), max_bytes=LIMIT)
    verify(received, KEY.public_key())
    assert received == sent
    assert received.header.scalars == scalars
    assert received.header.counts == {"cases": 7}
    assert sent.n_bytes == len(sent.to_bytes())
    assert received.header.payload_bytes == len(payload)
    assert received.header.payload_sha256 == hashlib.sha256(payload).hexdigest()


def test_the_same_header_and_payload_give_the_same_bytes() -> None:
    assert seal(make_header(), b"x", KEY).to_bytes() == seal(make_header(), b"x", KEY).to_bytes()


def test_a_memory_view_of_any_item_size_is_read() -> None:
    data = seal(make_header(), b"abc", KEY).to_bytes()
    assert Envelope.from_bytes(bytearray(data), max_bytes=LIMIT).payload == b"abc"
    assert Envelope.from_bytes(memoryview(data), max_bytes=LIMIT).payload == b"abc"


def test_a_reply_repeats_what_identifies_the_request_and_names_its_nonce() -> None:
    request = make_header(attempt=2, counted_round=2, counted_attempt=1)
    reply = reply_to(request, counts={"cases": 3}, scalars={"loss": None})
    assert (reply.direction, reply.in_reply_to, reply.attempt) == ("reply", request.nonce, 2)
    assert (reply.counted_round, reply.counts, reply.scalars) == (0, {"cases": 3}, {"loss": None})
    assert reply.nonce != request.nonce


def test_a_refusal_carries_its_code_and_nothing_else() -> None:
    refusal = seal(refusal_to(make_header(), RefusalCode.DATA_FAULT), b"", KEY)
    verify(refusal, KEY.public_key())
    assert refusal.header.code is RefusalCode.DATA_FAULT
    assert Envelope.from_bytes(refusal.to_bytes(), max_bytes=LIMIT).header == refusal.header
    assert not refusal.header.counts
    with pytest.raises(ValidationError, match="a refusal carries its code and no figure"):
        Header.model_validate({**refusal.header.model_dump(), "counts": {"patients": 3}})


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"direction": "reply"}, "in_reply_to belongs to replies"),
        ({"in_reply_to": "0" * 32}, "in_reply_to belongs to replies"),
        ({"code": RefusalCode.INTERNAL}, "code belongs to refusals"),
        ({"kind": "evaluate"}, "split belongs to evaluate"),
        ({"split": "test"}, "split belongs to evaluate"),
        ({"split": "validation", "round": 1}, "it is not scored"),
        ({"kind": "describe", "split": "validation"}, "split belongs to evaluate"),
        ({"payload_bytes": 3}, "go together"),
        (
            {"kind": "describe", "direction": "reply", "in_reply_to": "1" * 32}
            | {"payload_bytes": 1, "payload_sha256": "a" * 64},
            "carries no payload",
        ),
        ({"ledger_sequence": 1, "ledger_head": "a" * 64}, "ledger_head belongs to replies and refusals"),
        ({"direction": "reply", "in_reply_to": "1" * 32, "ledger_head": "a" * 64}, "go together"),
        (
            {"direction": "reply", "in_reply_to": "1" * 32, "ledger_sequence": 0, "ledger_head": "a" * 64},
            "greater than or equal to 1",
        ),
        ({"counted_round": 1}, "go together"),
        ({"counted_round": 3, "counted_attempt": 1}, "lies before round"),
        (
            {"kind": "publish", "counted_round": 1, "counted_attempt": 1},
            "belongs to train and evaluate requests",
        ),
        ({"kept_round": 1}, "go together"),
        ({"kept_round": 1, "kept_attempt": 1}, "counted_round or lies before it"),
        (
            {"kind": "evaluate", "split": "test", "kept_round": 1, "kept_attempt": 1},
            "belongs to train requests",
        ),
        ({"scalars": {"dice": float("nan")}}, "finite"),
        ({"scalars": {"dice": float("inf")}}, "finite"),
        ({"counts": {"cases": -1}}, "greater than or equal to 0"),
        ({"counts": {"cases": True}}, "valid integer"),
        ({"counts": {"patient name": 1}}, "pattern"),
        ({"counts": {f"k{i}": 1 for i in range(5121)}}, "at most 5120"),
        ({"site": "../north"}, "pattern"),
        ({"site": "north\n"}, "pattern"),
        ({"note": "free text"}, "Extra inputs"),
        ({"attempt": 0}, "greater than or equal to 1"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        make_header(**fields)


def test_only_requests_and_train_replies_carry_a_payload() -> None:
    evaluate = make_header(kind="evaluate", split="validation")
    assert seal(evaluate, b"weights", KEY).payload == b"weights"
    assert seal(reply_to(make_header()), b"delta", KEY).payload == b"delta"
    for header in (
        reply_to(evaluate),
        reply_to(make_header(kind="describe")),
        refusal_to(make_header(), RefusalCode.DEADLINE),
    ):
        with pytest.raises(WireError, match="carries no payload") as caught:
            seal(header, b"tensors", KEY)
        assert caught.value.code == "malformed"


def test_a_train_message_without_tensors_is_refused() -> None:
    for header in (make_header(), reply_to(make_header()), make_header(kind="publish")):
        with pytest.raises(WireError, match="needs a payload"):
            seal(header, b"", KEY)


def test_every_refusal_code_has_one_sentence_with_a_remedy() -> None:
    assert set(SENTENCES) == set(RefusalCode)
    assert len(set(SENTENCES.values())) == len(SENTENCES)
    assert all(sentence.endswith(".") and len(sentence) < 120 for sentence in SENTENCES.values())


def test_nonces_differ() -> None:
    assert len({new_nonce() for _ in range(100)}) == 100


def test_the_wire_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, medseg_core.wire.envelope, medseg_core.wire.signatures\n"
        "sys.exit(bool({'torch', 'numpy', 'SimpleITK', 'monai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
