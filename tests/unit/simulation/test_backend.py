"""What is set for Ray before it is imported."""

import os

import pytest

from medseg_simulation.backend import RayCluster, prepare_environment

NICENESS = "RAY_worker_niceness"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that ends with the test."""
    monkeypatch.setattr(os, "environ", {})


def test_actors_do_not_give_way_to_other_work_unless_somebody_wants_that() -> None:
    prepare_environment(RayCluster(None, 1.0, None))
    assert os.environ[NICENESS] == "0"

    os.environ[NICENESS] = "5"
    prepare_environment(RayCluster(None, 1.0, None))
    assert os.environ[NICENESS] == "5"


def test_a_ray_of_ones_own_has_a_token_and_a_cluster_keeps_its_ways() -> None:
    prepare_environment(RayCluster("10.0.0.5:6379", 1.0, None))
    assert "RAY_AUTH_TOKEN" not in os.environ

    prepare_environment(RayCluster(None, 1.0, None))
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
