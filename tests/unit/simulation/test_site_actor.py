"""The far side of a pool, without Ray: a site is packed, unpacked and answered for in this process."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from builders import COORDINATOR_KEY, make_experiment, make_request, make_trainer, opened, site_key

from medseg_client.site_data import SiteData, split_site
from medseg_core.cohort.cache import prepare_cohort
from medseg_core.config import Experiment, Faults
from medseg_core.errors import DivergedError, MedsegError, WireError
from medseg_server.errors import QuorumError
from medseg_simulation.misbehaviour.conduct import Misconduct
from medseg_simulation.phantoms import PhantomSettings, write_phantoms
from medseg_simulation.site_actor import PackedSite, SiteActor, pack, unpack
from medseg_simulation.virtual_site import VirtualSite

TASK = {
    "name": "phantom",
    "longest_side_px": 16,
    "channels": [{"name": "synthetic"}],
    "labels": {"organ": 1, "lesion": 2},
}


def cached_data(folder: Path, experiment: Experiment) -> SiteData:
    write_phantoms(folder / "data", PhantomSettings(sites=1, cases=4, spatial_dims=2, voxel_mm=8.0))
    cases = prepare_cohort(
        folder / "data", experiment.task, folder / "cache", threads=1, on_warning=lambda text: None
    )
    return split_site(cases, experiment, site="north")


def make_packed(folder: Path, experiment: Experiment, data: SiteData) -> PackedSite:
    (folder / "run").mkdir()
    (folder / "run/run.json").write_text("{}")
    state = folder / "run/sites/north"
    return pack(
        VirtualSite("north", experiment, data, state, site_key("north"), COORDINATOR_KEY.public_key())
    )


@pytest.fixture
def experiment() -> Experiment:
    return make_experiment(task=TASK)


@pytest.fixture
def packed(tmp_path, experiment) -> PackedSite:
    return make_packed(tmp_path, experiment, cached_data(tmp_path, experiment))


def test_a_site_travels_without_its_arrays(tmp_path, packed):
    assert len(pickle.dumps(packed)) < 10_000

    arrived = unpack(pickle.loads(pickle.dumps(packed)))  # noqa: S301

    case = arrived.data.train[0]
    assert case.folder is not None
    assert case.folder.is_relative_to(tmp_path / "cache")
    assert not case.image.flags.writeable


def test_an_actor_answers_as_a_trainer_does(tmp_path, experiment, packed):
    request = make_request(experiment)
    data = unpack(packed).data

    reply, fault = SiteActor("cpu").answer(packed, request)

    other = make_trainer(tmp_path / "other", experiment, data).handle(request)
    assert fault is None
    assert opened(reply).payload == opened(other).payload


def test_the_next_actor_gives_the_same_bytes_to_the_same_request(experiment, packed):
    request = make_request(experiment)

    assert SiteActor("cpu").answer(packed, request) == SiteActor("cpu").answer(packed, request)


def test_a_fault_at_the_site_comes_back_beside_the_refusal(tmp_path):
    training = {"learning_rate": 1e39, "gradient_clip_norm": 0.0}
    diverging = make_experiment(task=TASK, training=training)
    packed = make_packed(tmp_path, diverging, cached_data(tmp_path, diverging))

    reply, fault = SiteActor("cpu").answer(packed, make_request(diverging))

    assert opened(reply).header.code is not None
    assert isinstance(fault, DivergedError)


def test_an_absence_comes_back_without_a_reply_and_with_its_reason(experiment, packed):
    misconduct = Misconduct("north", Faults(kind="straggler", probability=1.0), seed=0, rounds=2)

    reply, fault = SiteActor("cpu").answer(replace(packed, misconduct=misconduct), make_request(experiment))

    assert reply == b""
    assert isinstance(fault, WireError)
    assert fault.code == "deadline"


@pytest.mark.parametrize("hidden", ["run", "cache"])
def test_storage_that_a_node_does_not_reach_is_named(tmp_path, experiment, packed, hidden):
    (tmp_path / hidden).rename(tmp_path / "elsewhere")

    _, fault = SiteActor("cpu").answer(packed, make_request(experiment))

    assert f"cannot read {tmp_path / hidden}" in str(fault)
    assert "storage that every node reaches" in str(fault)
    assert not (tmp_path / hidden).exists()


def test_an_error_goes_from_one_process_to_another_as_it_is():
    error = QuorumError(3, 1, 2, ["south (diverged)"])

    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301

    assert type(arrived) is QuorumError
    assert isinstance(arrived, MedsegError)
    assert str(arrived) == str(error)
