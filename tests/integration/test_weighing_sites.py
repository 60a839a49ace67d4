"""How much each site counts in the mean: by cases, voxels, alike, or by what its training gains on validation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from medseg_core.federation.algorithms.base import Means, ServerState
from medseg_core.federation.algorithms.fedavg import FedAvg
from medseg_core.seeding import derive_seed
from medseg_core.wire.codes import RefusalCode
from medseg_core.wire.envelope import Envelope, seal
from medseg_core.wire.header import GAIN, refusal_to
from medseg_server.errors import QuorumError, TooFewUpdatesError, UnscoredSitesError
from medseg_server.participation import choose_participants, weights_of
from medseg_server.rounds import Run, train

SGD = {"optimiser": "sgd"}
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


def with_south_away(folder: Path, **federation: object) -> Run:
    """Three sites, of which the second refuses to train."""
    experiment = make_experiment(federation={"rounds": 3, **federation}, training={"optimiser": "sgd"})
    update = constant_update(experiment, 0.125)
    answers = {
        name: scripted_site(name, update, cases=1 + n) for n, name in enumerate(("north", "south", "west"))
    }
    honest = answers["south"]

    def away(request: Envelope) -> bytes:
        if request.header.kind != "train":
            return honest(request)
        refusal = refusal_to(request.header, RefusalCode.OUT_OF_MEMORY)
        return seal(refusal, b"", site_key("south")).to_bytes()

    return make_run(folder, experiment, ScriptedTransport({**answers, "south": away}))


def test_cyclic_goes_on_with_the_next_site_where_a_quorum_allows_it(tmp_path: Path) -> None:
    history = train(with_south_away(tmp_path / "on", algorithm="cyclic", quorum=1)).history
    assert [list(record["contributed"]) for record in history] == [["north"], ["west"], ["west"]]
    assert [record["absent"] for record in history] == [{}, {"south": "out_of_memory"}, {}]
    assert [list(record["sites"]) for record in history] == [
        ["north", "west"],  # the model of round 1 went to south with what it refused
        ["north", "south", "west"],
        ["north", "south", "west"],
    ]
    with pytest.raises(
        QuorumError, match=r"south \(out_of_memory\).*quorum = 1 the next site would stand in"
    ):
        train(with_south_away(tmp_path / "fails", algorithm="cyclic"))


def test_a_sites_absence_counts_in_the_share_of_a_round(tmp_path: Path) -> None:
    shares = []

    @dataclass(frozen=True)
    class Noting(FedAvg):
        def step(self, means: Means, state: ServerState) -> object:
            shares.append(means.accumulator.share)
            return super().step(means, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg_server.rounds.build_algorithm", lambda experiment: Noting())
        train(with_south_away(tmp_path, rounds=1, quorum=1))
    assert shares == [pytest.approx((1 + 3) / (1 + 2 + 3))]


def test_a_round_with_its_quorum_and_too_few_for_the_rule_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        TooFewUpdatesError, match=r"'median' needs the updates of 3 sites, 2 contributed.*south"
    ):
        train(with_south_away(tmp_path, algorithm="median", quorum=2))


def test_a_required_site_is_asked_in_each_round() -> None:
    sites = tuple(f"site{n}" for n in range(9))
    experiment = make_experiment(federation={"participants": 3, "required_sites": ["site4"], "rounds": 20})
    drawn = [choose_participants(experiment, sites, number) for number in range(1, 21)]
    assert all("site4" in names and len(set(names)) == 3 for names in drawn)
    assert set().union(*drawn) == set(sites)


@pytest.mark.parametrize(
    ("federation", "sentence"),
    [
        ({"participants": 1, "required_sites": ["a", "b"]}, "names 2 sites, and participants draws 1"),
        ({"algorithm": "cyclic", "required_sites": ["a"]}, "asks one site in a round"),
    ],
)
def test_required_sites_that_cannot_all_be_asked_are_refused(
    federation: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_experiment(federation=federation)


@pytest.mark.parametrize(
    ("algorithm", "steps", "absent"),
    [("fednova", 2**52, True), ("fednova", 1, True), ("fednova", 2, False), ("fedavg", 3, True)],
)
def test_other_steps_than_a_round_has_are_refused_where_a_rule_divides_by_them(
    tmp_path: Path, algorithm: str, steps: int, absent: bool
) -> None:
    """A site that told one step of many would be multiplied by how far the many lead."""
    experiment = make_experiment(
        federation={"rounds": 1, "quorum": 1, "algorithm": algorithm}, training={**SGD, "batch_size": 2}
    )
    plain = scripted_site("south", constant_update(experiment, 0.5), cases=3)

    def boastful(request: Envelope) -> bytes:
        reply = opened(plain(request))
        counts = (
            {**reply.header.counts, "steps": steps} if request.header.kind == "train" else reply.header.counts
        )
        return seal(
            reply.header.model_copy(update={"counts": counts}), reply.payload, site_key("south")
        ).to_bytes()

    north = scripted_site("north", constant_update(experiment, 0.5), cases=1)  # one step
    (record,) = train(
        make_run(tmp_path, experiment, ScriptedTransport({"north": north, "south": boastful}))
    ).history
    assert record["absent"] == ({"south": "bad_count"} if absent else {})


def test_sites_without_validation_cases_cannot_be_weighed_by_them(tmp_path: Path) -> None:
    """Found before anybody trains."""
    data = {"north": make_site_data("north"), "south": replace(make_site_data("south"), validation=())}
    run = make_federation(tmp_path, make_experiment(federation={"weights": "validation_gain"}), data)
    with pytest.raises(UnscoredSitesError, match=r"Without any: south\. Use weights"):
        train(run)
