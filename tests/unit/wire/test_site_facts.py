"""What a site tells of itself travels as numbers of known names, and comes back the same or not at all."""

import pytest
from builders import make_experiment, make_facts, make_request, opened
from hypothesis import given
from hypothesis import strategies as st

from medseg_core.wire.header import Header, reply_to
from medseg_core.wire.site_facts import FACT_NAMES, SiteFacts, read_facts, version_parts

whole = st.integers(0, 2**53 - 1)
part = st.integers(0, 9999)
three = st.tuples(part, part, part)
facts = st.builds(
    make_facts,
    medseg=three,
    torch=three,
    device=st.sampled_from(["cpu", "cuda", "mps"]),
    memory_gib=whole,
    cpu_threads=whole,
    rounds_left=whole,
    max_update_norm=st.none() | st.floats(1e-9, 1e9),
    spacing_mm=st.lists(st.floats(1e-3, 1e3), max_size=3).map(tuple),
    size_voxels=st.lists(whole, max_size=3).map(tuple),
    released=st.sampled_from([(), ("training",), ("validation", "test"), ("training", "validation", "test")]),
)


@given(told=facts)
def test_facts_come_back_from_the_header_that_carries_them(told: SiteFacts) -> None:
    asked = opened(make_request(make_experiment(), "describe")).header
    sent = reply_to(asked, scalars=told.to_scalars())
    received = Header.model_validate_json(sent.model_dump_json())
    assert set(received.scalars) <= FACT_NAMES
    assert read_facts(received.scalars) == told


@given(
    scalars=st.dictionaries(
        st.sampled_from(sorted(FACT_NAMES)) | st.text(max_size=9),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_whatever_is_told_is_facts_or_nothing(scalars: dict[str, float | None]) -> None:
    read_facts(make_facts().to_scalars() | scalars)
    read_facts(scalars)


@pytest.mark.parametrize(
    "change",
    [
        {"memory_gib": 1.5},
        {"cpu_threads": -1.0},
        {"device/cuda": 0.0},
        {"rounds_left": None},
        {"torch/0": 0.5},
        {"spacing_mm/1": 0.0},
        {"max_update_norm": -1.0},
    ],
    ids=str,
)
def test_facts_that_cannot_be_are_no_facts(change: dict[str, float | None]) -> None:
    assert read_facts(make_facts().to_scalars() | change) is None


def test_a_site_that_tells_nothing_has_no_facts() -> None:
    assert read_facts({}) is None
    assert read_facts({"dice": 0.5}) is None


def test_names_of_a_later_release_are_passed_over() -> None:
    assert read_facts(make_facts().to_scalars() | {"disk_gib": 9.0}) == make_facts()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2.13.0+cu130", (2, 13, 0)),
        ("0.1.0", (0, 1, 0)),
        ("1.2", (1, 2, 0)),
        ("2.9.0a0", (2, 9, 0)),
        ("x", (0, 0, 0)),
    ],
)
def test_a_version_is_its_first_three_numbers(text: str, parts: tuple[int, int, int]) -> None:
    assert version_parts(text) == parts
