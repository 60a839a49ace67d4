"""How much each site counts in the mean: by cases, voxels, alike, or by what its training gains on validation."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from builders import (
    ScriptedTransport,
    constant_update,
    initial_weights,
    make_experiment,
    make_federation,
    make_run,
    make_site_data,
    newest_weights,
    opened,
    scripted_site,
    site_key,
)

from medseg_core.config import Experiment
from medseg_core.seeding import derive_seed
from medseg_core.wire.envelope import Envelope, seal
from medseg_core.wire.header import GAIN
from medseg_server.participation import weights_of
from medseg_server.rounds import train

MOVES = {"north": 0.5, "south": -0.25}


def site(name: str, experiment: Experiment, cases: int, more: Mapping[str, float | int]) -> object:
    """A scripted site that tells `more`: counts when it describes itself, scalars when it trains."""
    plain = scripted_site(name, constant_update(experiment, MOVES[name]), cases=cases)

    def answer(request: Envelope) -> bytes:
        reply = opened(plain(request))  # type: ignore[arg-type]
        header = reply.header
        if header.kind == "describe":
            counts = {**header.counts, **{k: v for k, v in more.items() if k == "train_voxels"}}
            header = header.model_copy(update={"counts": counts})
        elif header.kind == "train":
            scalars = {**header.scalars, **{k: v for k, v in more.items() if k == GAIN}}
            header = header.model_copy(update={"scalars": scalars})
        return seal(header, reply.payload, site_key(name)).to_bytes()

    return answer


def share_of_north(
    folder: Path, weights: str, north: Mapping[str, float], south: Mapping[str, float]
) -> float:
    """The part of the mean update that is north's."""
    experiment = make_experiment(federation={"rounds": 1, "weights": weights, "quorum": 1})
    answers = {"north": site("north", experiment, 3, north), "south": site("south", experiment, 1, south)}
    run = make_run(folder, experiment, ScriptedTransport(answers))  # type: ignore[arg-type]
    train(run)
    start = initial_weights(experiment, derive_seed(experiment.federation.seed, purpose="initial_weights"))
    name = next(iter(start))
    moved = float(np.mean(newest_weights(run)[name] - start[name]))
    return (moved - MOVES["south"]) / (MOVES["north"] - MOVES["south"])


@pytest.mark.parametrize(
    ("weights", "north", "south", "share"),
    [
        ("cases", {}, {}, 0.75),
        ("equal", {}, {}, 0.5),
        ("voxels", {"train_voxels": 100}, {"train_voxels": 900}, 0.1),
        ("validation_gain", {GAIN: 0.3}, {GAIN: 0.1}, 0.75),
        ("validation_gain", {GAIN: -0.3}, {GAIN: 0.009}, 0.1),  # who gains nothing counts a thousandth
        ("validation_gain", {GAIN: 0.3}, {}, 1.0),  # who does not tell it is absent
        ("validation_gain", {GAIN: 0.3}, {GAIN: 700.0}, 1.0),  # and who tells nonsense
    ],
)
def test_sites_count_as_the_experiment_says(
    tmp_path: Path, weights: str, north: Mapping[str, float], south: Mapping[str, float], share: float
) -> None:
    assert share_of_north(tmp_path, weights, north, south) == pytest.approx(share, abs=1e-4)


def test_real_sites_tell_their_voxels_and_gains(tmp_path: Path) -> None:
    data = {"north": make_site_data("north", train=2), "south": make_site_data("south", train=1)}
    by_voxels = make_federation(tmp_path / "voxels", make_experiment(federation={"weights": "voxels"}), data)
    described = train(by_voxels).cases
    assert weights_of(by_voxels.experiment, described) == {"north": 2 * 20 * 18, "south": 20 * 18}
    by_gain = make_federation(
        tmp_path / "gain", make_experiment(federation={"weights": "validation_gain"}), data
    )
    assert all(not record["absent"] for record in train(by_gain).history)


def test_cyclic_passes_the_model_from_site_to_site(tmp_path: Path) -> None:
    data = {name: make_site_data(name, train=1) for name in ("a", "b", "c")}
    experiment = make_experiment(federation={"algorithm": "cyclic", "rounds": 4})
    history = train(make_federation(tmp_path, experiment, data)).history
    assert [list(record["contributed"]) for record in history] == [["a"], ["b"], ["c"], ["a"]]
    assert all(record["sites"].keys() == data.keys() for record in history)  # all score
