"""How far updates point the same way: directions and their cosines, against exact ones."""

import numpy as np
import numpy.typing as npt
import pytest

from medseg_core.federation.update import ModelSpec, TensorSpec
from medseg_server.agreement import agreement_by_chance, agreements, direction_of

SHAPES = {"a.weight": (40, 70, 27), "b.bias": (), "c.weight": (300, 900), "d.weight": (5, 3)}
SPEC = ModelSpec({name: TensorSpec(shape, "parameter") for name, shape in SHAPES.items()})
CHANCE = agreement_by_chance(SPEC)
Update = dict[str, npt.NDArray[np.float32]]


def noise(seed: int) -> Update:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape, np.float32)) for name, shape in SHAPES.items()}


def mixed(share: float, seed: int, common: Update) -> Update:
    own = noise(seed)
    return {name: np.asarray(np.float32(share) * common[name] + own[name]) for name in common}


def flat(update: Update) -> npt.NDArray[np.float64]:
    return np.concatenate([update[name].ravel() for name in sorted(update)]).astype(np.float64)


def exactly(updates: dict[str, Update]) -> dict[str, float]:
    units = {site: flat(u) / np.linalg.norm(flat(u)) for site, u in updates.items()}
    found = {}
    for site, own in units.items():
        others = np.sum([unit for other, unit in units.items() if other != site], axis=0)
        found[site] = float(own @ others / np.linalg.norm(others))
    return found


def test_agreements_are_the_cosines_of_updates_but_for_chance() -> None:
    common = noise(1)
    updates = {f"site-{n}": mixed(0.3 * n, 10 + n, common) for n in range(5)}

    found = agreements({site: direction_of(update, SPEC) for site, update in updates.items()})

    assert found == pytest.approx(exactly(updates), abs=4 * CHANCE)
    assert abs(found["site-0"]) < 4 * CHANCE  # noise
    assert found["site-4"] > 0.4


def test_noise_agrees_as_far_as_chance_lets_it() -> None:
    others = {site: direction_of(noise(number), SPEC) for number, site in enumerate(("north", "south"))}
    drawn = [agreements({**others, "rider": direction_of(noise(n), SPEC)})["rider"] for n in range(100, 150)]
    assert np.sqrt(np.mean(np.square(drawn))) == pytest.approx(CHANCE, rel=0.35)


def test_a_turned_sign_and_another_length_are_seen_and_not_seen() -> None:
    common = noise(1)
    updates = {site: mixed(1.0, number, common) for number, site in enumerate(("north", "south", "west"), 2)}
    honest = agreements({site: direction_of(update, SPEC) for site, update in updates.items()})
    west = {name: np.asarray(-1000 * tensor) for name, tensor in updates["west"].items()}

    turned = agreements(
        {site: direction_of(update, SPEC) for site, update in (updates | {"west": west}).items()}
    )

    assert turned["west"] == pytest.approx(-honest["west"], abs=1e-6)


def test_in_which_order_sites_come_changes_no_bit() -> None:
    directions = {site: direction_of(noise(number), SPEC) for number, site in enumerate("abcd")}
    assert agreements(directions) == agreements(dict(reversed(directions.items())))


def test_of_two_sites_nothing_is_said() -> None:
    assert agreements({site: direction_of(noise(number), SPEC) for number, site in enumerate("ab")}) == {}


def test_what_does_not_move_or_moves_to_the_end_of_float32_has_a_finite_agreement() -> None:
    largest = {name: np.full(shape, np.finfo(np.float32).max) for name, shape in SHAPES.items()}
    still = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    updates = {"still": still, "huge": largest, "north": noise(1), "south": noise(2)}

    found = agreements({site: direction_of(update, SPEC) for site, update in updates.items()})

    assert found["still"] == 0
    assert np.isfinite(list(found.values())).all()


def test_buffers_are_left_out() -> None:
    spec = ModelSpec({**SPEC.tensors, "norm.running_var": TensorSpec((4,), "buffer")})
    update = noise(1)
    with_buffer = {**update, "norm.running_var": np.full(4, 1e6, np.float32)}
    np.testing.assert_array_equal(direction_of(with_buffer, spec), direction_of(update, SPEC))


def test_a_small_network_has_more_of_chance() -> None:
    small = ModelSpec({"w": TensorSpec((100,), "parameter")})
    assert agreement_by_chance(small) == 0.1
    assert CHANCE == 1 / 128
