"""Who is named as a suspect, from norms, cases and agreements in the records of rounds."""

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


def agreeing(number: int, **sites: float) -> dict[str, Any]:
    """A round of updates of one length that agree so far with the others; chance gives 0.01."""
    told = {site: {"update_norm": 1.0, "cases": 9, "agreement": far} for site, far in sites.items()}
    return {"round": number, "contributed": told, "agreement_by_chance": 0.01}


def test_a_site_whose_updates_have_nothing_in_common_with_the_others_is_named() -> None:
    chance = {1: 0.012, 2: -0.009, 3: 0.021, 4: -0.002}
    history = [agreeing(n, north=0.2, south=0.1, west=0.15, rider=far) for n, far in chance.items()]
    assert suspects(history) == {"rider": {"reason": "noise", "rounds": [1, 2, 3, 4]}}


def test_sites_that_disagree_towards_the_end_have_trained() -> None:
    history = [agreeing(n, north=0.1, south=0.1, west=far) for n, far in ((1, 0.08), (2, 0.01), (3, -0.1))]
    assert suspects(history) == {}


def test_two_rounds_are_too_few_to_tell_noise() -> None:
    history = [agreeing(n, north=0.2, south=0.2, rider=0.01) for n in (1, 2)]
    assert suspects(history) == {}


def test_a_site_whose_updates_point_against_the_others_is_named_with_the_rounds_in_which_they_did() -> None:
    turned = {1: 0.02, 2: -0.2, 3: -0.3}
    history = [agreeing(n, north=0.2, south=0.1, west=0.15, hostile=far) for n, far in turned.items()]
    assert suspects(history) == {"hostile": {"reason": "against_the_others", "rounds": [2, 3]}}


def test_where_most_point_apart_nobody_is_accused() -> None:
    history = [agreeing(n, north=-0.2, south=0.04, west=-0.15) for n in (1, 2, 3)]
    assert suspects(history) == {}


def test_where_nobody_agrees_nobody_is_accused() -> None:
    history = [agreeing(n, north=0.05, south=0.02, west=0.01) for n in (1, 2, 3)]
    assert suspects(history) == {}


def test_who_sends_next_to_nothing_is_named_for_that() -> None:
    history = [agreeing(n, north=0.2, south=0.2, rider=0.0) for n in (1, 2, 3)]
    for entry in history:
        entry["contributed"]["rider"]["update_norm"] = 0.0
    assert suspects(history) == {"rider": {"reason": "small_updates", "rounds": [1, 2, 3]}}
