"""Settings for all tests. This folder is on the import path for its sake: `builders` serves tests everywhere."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors, several test processes: threads would only wait

import pytest
from hypothesis import settings

settings.register_profile("medseg", deadline=None)  # a deadline measures how busy the machine is
settings.load_profile("medseg")

CONTAINERS_S = 1800  # the first of them builds the images


def pytest_collection_finish() -> None:
    """What is imported stays: no look for garbage, of which pytest and a run have many, need walk all of torch."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes that share the work take a file at a time, the tests of containers as one: they share an engine.

    Containers first: they wait more than they compute, so that the other files fill the gaps. Then files with a slow
    test: at the end no process should have minutes of work that the others cannot share.
    """
    for item in items:
        is_of_containers = item.path.parent.name == "containers"
        item.add_marker(pytest.mark.xdist_group("containers" if is_of_containers else item.path.name))
        if is_of_containers:
            item.add_marker(pytest.mark.timeout(CONTAINERS_S))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.parent.name != "containers", item.path not in slow))
