"""Who is named as a suspect, from norms and cases in the records of rounds."""

from typing import Any

import pytest

from medseg_server.suspects import suspects


def record(number: int, **sites: tuple[float | None, int]) -> dict[str, Any]:
    """A round to which each site contributed an update of a norm from so many cases."""
    told = {site: {"update_norm": norm, "cases": cases} for site, (norm, cases) in sites.items()}
    return {"round": number, "contributed": told}


def test_a_site_whose_updates_are_far_too_small_is_named_with_its_rounds() -> None:
    history = [record(n, north=(1.0, 25), south=(1.2, 36), rider=(0.01, 100)) for n in (1, 2)]
    assert suspects(history) == {"rider": {"reason": "small_updates", "rounds": [1, 2]}}


@pytest.mark.parametrize("growth", [0.5, 1.0])
def test_honest_sites_a_hundredfold_apart_are_not_named(growth: float) -> None:
    sizes = {"tiny": 2, "small": 20, "large": 199}
    history = [record(1, **{site: (0.1 * cases**growth, cases) for site, cases in sizes.items()})]
    assert suspects(history) == {}


def test_one_long_update_makes_no_suspects_of_the_others() -> None:
    assert suspects([record(1, north=(1.0, 9), south=(1.0, 9), hostile=(1000.0, 9))]) == {}


def test_one_small_update_of_many_is_no_reason() -> None:
    history = [record(n, a=(1.0, 9), b=(1.0, 9), c=(0.001 if n == 1 else 1.0, 9)) for n in (1, 2, 3)]
    assert suspects(history) == {}


def test_of_two_sites_nobody_knows_which_one_is_odd() -> None:
    assert suspects([record(1, north=(1.0, 9), rider=(0.001, 9))]) == {}


def test_norms_that_nobody_wrote_down_accuse_nobody() -> None:
    assert suspects([record(1, a=(1.0, 9), b=(1.0, 9), c=(1.0, 9), old=(None, 9))]) == {}
