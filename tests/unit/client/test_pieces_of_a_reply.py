"""A reply leaves in pieces: few enough to be quick, small enough for the uplink."""

import numpy as np
import pytest
from builders import make_experiment, make_request, site_key
from flwr.app.message import array as flower_array

from medseg_client.relay import CHUNK_LEAST, CHUNK_MOST, CHUNK_SETTING, CHUNKS, carried, chunk_size
from medseg_core.wire.envelope import Envelope, seal, split_payload
from medseg_core.wire.header import reply_to


@pytest.mark.parametrize(
    ("n_bytes", "expected"),
    [
        (0, CHUNK_LEAST),
        (5_000_000, CHUNK_LEAST),
        (24_000_001, 1_000_001),
        (120_000_000, 5_000_000),
        (10**9, CHUNK_MOST),
    ],
)
def test_pieces_grow_with_the_reply_between_two_bounds(n_bytes: int, expected: int) -> None:
    assert chunk_size(n_bytes) == expected


@pytest.mark.parametrize(("n_bytes", "pieces"), [(1000, 1), (2_000_000, 4), (20_000_000, CHUNKS)])
def test_flower_cuts_a_reply_as_the_relay_says(
    n_bytes: int, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_array, CHUNK_SETTING, CHUNK_MOST)  # put back afterwards
    request = make_request(make_experiment())
    header = Envelope.from_bytes(request, max_bytes=len(request)).header
    payload = np.random.default_rng(0).bytes(n_bytes)
    reply = seal(reply_to(header), payload, site_key("north")).to_bytes()
    found = carried(reply).array_records["envelope"]["payload"]
    assert found.data == split_payload(reply)[1] == payload
    assert len(found.slice_array()) == pieces
