"""Bytes from outside give an envelope or a WireError, and a changed byte is always noticed."""

import contextlib
import json
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from medseg_core.errors import WireError
from medseg_core.wire.envelope import Envelope, seal, verify
from medseg_core.wire.header import Header, parse_header

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))
LIMIT = 1 << 20
HEADER = Header(
    kind="train",
    direction="request",
    run="run-1",
    round=1,
    site="north",
    nonce="0" * 32,
    task="hippocampus",
    experiment_sha256="a" * 64,
    counts={"cases": 12},
    scalars={"learning_rate": 0.5, "loss": None},
)
SEALED = seal(HEADER, bytes(range(64)), KEY).to_bytes()


def receive(data: bytes, limit: int = LIMIT) -> Envelope:
    envelope = Envelope.from_bytes(data, max_bytes=limit)
    verify(envelope, KEY.public_key())
    return envelope


def code_of(data: bytes, limit: int = LIMIT) -> str:
    with pytest.raises(WireError) as caught:
        receive(data, limit)
    return caught.value.code


def test_every_flipped_bit_of_a_sealed_envelope_is_refused() -> None:
    for position in range(len(SEALED)):
        for bit in range(8):
            changed = bytearray(SEALED)
            changed[position] ^= 1 << bit
            with pytest.raises(WireError):
                receive(bytes(changed))


def test_a_header_full_of_faults_is_refused_before_each_is_looked_at() -> None:
    faults = {f"no key {number}": "no count" for number in range(30_000)}
    document = HEADER.model_dump(mode="json") | {"counts": faults}
    with pytest.raises(WireError, match="header of more than 5120 counts or scalars"):
        parse_header(json.dumps(document).encode())


def test_a_header_with_all_counts_and_scalars_that_it_may_have_is_read() -> None:
    names = [f"n{number}" for number in range(5120)]
    whole = HEADER.model_copy(
        update={"counts": dict.fromkeys(names, 1), "scalars": dict.fromkeys(names, 0.5)}
    )
    assert parse_header(whole.model_dump_json().encode()) == whole


def test_every_truncation_and_extension_is_refused() -> None:
    for length in range(len(SEALED)):
        assert code_of(SEALED[:length]) == "malformed"
    assert code_of(SEALED + b"\x00") == "malformed"


@given(st.binary(max_size=400))
def test_arbitrary_bytes_give_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        receive(data)


@given(header=st.binary(max_size=200), payload=st.binary(max_size=50))
def test_arbitrary_headers_in_a_right_frame_give_a_wire_error(header: bytes, payload: bytes) -> None:
    frame = struct.pack(">6sHIQ", b"MEDSEG", 1, len(header), len(payload))
    with pytest.raises(WireError):
        receive(frame + header + bytes(64) + payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(field=st.sampled_from(sorted(Header.model_fields)), value=json_values)
def test_a_header_field_of_any_json_value_parses_or_gives_a_wire_error(field: str, value: object) -> None:
    document = {**json.loads(HEADER.model_dump_json()), field: value}
    with contextlib.suppress(WireError):
        assert parse_header(json.dumps(document).encode()).wire == 1


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe",
        b'"\\ud800"',
        b"null",
        b"1e999",
        HEADER.model_dump_json().replace("12}", "12" + "0" * 5000 + "}").encode(),
        HEADER.model_dump_json().replace("0.5", "Infinity").encode(),
        HEADER.model_dump_json().replace("0.5", "1e999").encode(),
        HEADER.model_dump_json().replace("north", "north\\ud800").encode(),
        HEADER.model_dump_json().replace("north", "n" * 65).encode(),
    ],
)
def test_hostile_json_is_malformed(header: bytes) -> None:
    with pytest.raises(WireError) as caught:
        parse_header(header)
    assert caught.value.code == "malformed"
    assert len(str(caught.value)) < 400


def test_too_large_an_envelope_is_refused_by_its_size_alone() -> None:
    assert code_of(SEALED, limit=len(SEALED) - 1) == "too_large"
    assert code_of(bytes(LIMIT + 1)) == "too_large"
    assert receive(SEALED, limit=len(SEALED)).payload == bytes(range(64))


@pytest.mark.parametrize(("header", "payload"), [(2**32 - 1, 0), (0, 2**64 - 1), (10, 2**63), (1 << 20, 1)])
def test_lengths_that_lie_are_refused_before_anything_is_cut(header: int, payload: int) -> None:
    frame = struct.pack(">6sHIQ", b"MEDSEG", 1, header, payload)
    assert code_of(frame + SEALED[20:]) in ("malformed", "too_large")


def test_another_wire_version_is_named_as_such() -> None:
    assert code_of(SEALED[:6] + b"\x00\x02" + SEALED[8:]) == "wire_version"
    with pytest.raises(WireError) as caught:
        parse_header(HEADER.model_dump_json().replace('"wire":1', '"wire":2').encode())
    assert caught.value.code == "wire_version"


def test_a_signature_by_another_key_is_refused() -> None:
    foreign = seal(HEADER, b"weights", OTHER_KEY)
    with pytest.raises(WireError, match="site 'north'") as caught:
        verify(foreign, KEY.public_key())
    assert caught.value.code == "bad_signature"


def test_a_signature_over_the_bare_header_is_refused() -> None:
    whole = seal(HEADER, b"weights", KEY)
    bare = Envelope(whole.header_bytes, KEY.sign(whole.header_bytes), whole.payload)
    with pytest.raises(WireError) as caught:
        verify(bare, KEY.public_key())
    assert caught.value.code == "bad_signature"


def test_a_payload_of_another_envelope_is_refused() -> None:
    first, second = seal(HEADER, b"weights A", KEY), seal(HEADER, b"weights B", KEY)
    mixed = Envelope(first.header_bytes, first.signature, second.payload)
    with pytest.raises(WireError, match="SHA-256"):
        verify(mixed, KEY.public_key())


def test_the_header_shown_is_the_header_signed() -> None:
    other = seal(HEADER.model_copy(update={"site": "south"}), b"weights", KEY)
    assert Envelope(other.header_bytes, other.signature, other.payload).header.site == "south"
    with pytest.raises(TypeError):
        Envelope(other.header_bytes, other.signature, other.payload, HEADER)  # type: ignore[call-arg]
