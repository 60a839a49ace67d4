"""Arrays in parts: every number once, results in order, wherever the ends of parts fall."""

from itertools import chain

import numpy as np
import numpy.typing as npt
import pytest

from medseg_core.federation import parts
from medseg_core.federation.parts import on_parts

SIZES = {"none": 0, "one": 1, "short": 7, "whole": 16, "long": 50, "again": 3, "last": 33}


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def short_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_PART", 16)
    monkeypatch.setattr(parts, "_THREADS", request.param)


@pytest.mark.usefixtures("short_parts")
def test_each_number_is_worked_on_once_and_results_are_in_the_order_of_the_numbers():
    arrays = {name: [np.arange(size)] for name, size in SIZES.items()}
    found = on_parts(lambda part: part.tolist(), arrays)
    assert list(found) == list(SIZES)
    assert {name: list(chain(*its)) for name, its in found.items()} == {
        n: [*range(s)] for n, s in SIZES.items()
    }
    assert all(len(part) <= 16 for its in found.values() for part in its)


@pytest.mark.usefixtures("short_parts")
def test_arrays_of_a_name_are_cut_alike_and_others_come_whole():
    def add(total: npt.NDArray[np.int64], values: npt.NDArray[np.int64], factor: int) -> None:
        total += factor * values

    totals = {name: np.zeros(size, np.int64) for name, size in SIZES.items()}
    arrays = {name: (totals[name], np.arange(size)) for name, size in SIZES.items()}
    on_parts(add, arrays, {name: (len(name),) for name in SIZES})
    assert all((totals[name] == len(name) * np.arange(size)).all() for name, size in SIZES.items())


@pytest.mark.usefixtures("short_parts")
def test_what_goes_wrong_with_a_part_is_raised():
    def refuse(part: npt.NDArray[np.int64]) -> None:
        if 40 in part:
            raise ValueError("forty")

    with pytest.raises(ValueError, match="forty"):
        on_parts(refuse, {name: [np.arange(size)] for name, size in SIZES.items()})


def test_nothing_gives_nothing():
    assert on_parts(len, {}) == {}
