"""A release speaks its own wire version and the one before it; the other side may be one older."""

import pytest
from builders import make_experiment, make_request, make_site_data, make_trainer, opened

from medseg_core.errors import WireError
from medseg_core.federation_errors import WireVersionsError
from medseg_core.wire import versions
from medseg_core.wire.versions import newest_common

EXPERIMENT = make_experiment()


def test_the_newest_version_that_both_speak_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "SPOKEN", (2, 3))
    assert newest_common((1, 2), us="here", them="there") == 2
    assert newest_common((3, 4), us="here", them="there") == 3
    assert newest_common((3, 2), us="here", them="there") == 3


@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        ((1,), "the coordinator speaks wire version 2 and 3, north 1. Upgrade medseg at north."),
        (
            (4, 5),
            "the coordinator speaks wire version 2 and 3, north 4 and 5. Upgrade medseg at the coordinator.",
        ),
        ((), "the coordinator speaks wire version 2 and 3, north none. Upgrade medseg at north."),
    ],
)
def test_without_a_common_version_both_are_named_and_who_has_to_upgrade(
    monkeypatch: pytest.MonkeyPatch, theirs: tuple[int, ...], sentence: str
) -> None:
    monkeypatch.setattr(versions, "SPOKEN", (2, 3))
    with pytest.raises(WireVersionsError) as caught:
        newest_common(theirs, us="the coordinator", them="north")
    assert str(caught.value) == sentence


def test_a_site_of_the_next_release_answers_in_the_version_that_it_was_asked_in(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(versions, "SPOKEN", (1, 2))
    trainer = make_trainer(tmp_path, EXPERIMENT, make_site_data("north"))
    for version in (1, 2):
        reply = trainer.handle(make_request(EXPERIMENT, "describe", wire=version, attempt=version))
        assert opened(reply).header.wire == version
        assert reply[6:8] == version.to_bytes(2, "big")


def test_a_version_that_is_not_spoken_is_refused_as_such(tmp_path, monkeypatch) -> None:
    request = make_request(EXPERIMENT, "describe")
    monkeypatch.setattr(versions, "SPOKEN", (2, 3))
    with pytest.raises(WireError) as caught:
        make_trainer(tmp_path, EXPERIMENT, make_site_data("north")).handle(request)
    assert caught.value.code == "wire_version"


def test_the_version_outside_is_that_of_the_signed_header(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(versions, "SPOKEN", (1, 2))
    request = make_request(EXPERIMENT, "describe")
    with pytest.raises(WireError, match="wire 2 outside, 1 in the header"):
        opened(request[:6] + (2).to_bytes(2, "big") + request[8:])
