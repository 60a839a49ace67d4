"""One engine, one build of each image and one federation for all tests of containers."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import STARTER, Containers, build_images, call, docker_program, engine_answers
from experiments import TINY

TAG = "test"
EXPERIMENT = f"""{TINY}[federation]
rounds = 4
optimiser_memory = true
"""


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """A container engine that answers: the machine's own, or one that is started for the tests."""
    if engine_answers():
        yield
        return
    if os.geteuid() != 0 or not STARTER.exists():
        pytest.skip("no container engine answers, and there is none to start")
    said = call(STARTER, "up", timeout_s=600)
    settings = dict(word.split("=", 1) for word in said.split() if "=" in word)
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    docker_program.cache_clear()
    yield
    subprocess.run([STARTER, "down"], check=False)
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="session")
def images(engine: None) -> str:
    """Tag of both images, built from this checkout."""
    build_images(TAG)
    return TAG


@pytest.fixture(scope="session")
def federation(images: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """A coordinator and two hospitals, up; every hospital approved the experiment."""
    folder: Path = tmp_path_factory.mktemp("containers")
    (folder / "experiment.toml").write_text(EXPERIMENT)
    made = Containers(folder / f"t{os.getpid()}", images)
    try:
        made.demo("up", timeout_s=400)
        yield made
    finally:
        made.demo("down")
