"""Runs between containers that are killed and replaced: each ends with the weights of the run that nobody disturbed."""

import json
import os
import signal
import subprocess
import time

import pytest
from engine import COORDINATOR, HOSPITALS, SERVICES, Containers, docker, docker_program, wait_until

pytestmark = pytest.mark.slow
RUN_S = 400.0
BETWEEN_S = 3.0  # kills


@pytest.fixture(scope="module")
def undisturbed(federation: Containers) -> str:
    """The weights of a run that nobody disturbed, which ended with its report."""
    said = federation.demo("run", timeout_s=RUN_S)
    assert "published to hospital-1, hospital-2" in said
    report = federation.root / "runs" / federation.runs()[-1] / "report.html"
    assert "Research use only" in report.read_text()
    return federation.weights(federation.runs()[-1])


def is_running(container: str) -> bool:
    return docker("inspect", "--format={{.State.Running}}", container).strip() == "true"


def wait_for_round(federation: Containers, run: str, number: int) -> None:
    def reached() -> bool:
        done = [e["round"] for e in federation.events(run) if e["event"] == "round_finished"]
        return number in done

    wait_until(reached)


def require_end(federation: Containers, run: str, weights: str) -> None:
    """The run finishes, every hospital took part in every round, and the weights are those."""
    wait_until(lambda: federation.has(run, "finished"), timeout_s=RUN_S)
    rounds = [e for e in federation.events(run) if e["event"] == "round_finished"]
    assert {tuple(sorted(e["contributed"])) for e in rounds} == {HOSPITALS}  # type: ignore[call-overload]
    assert federation.weights(run) == weights


@pytest.mark.long
def test_a_run_completes_though_each_container_is_killed_once(
    federation: Containers, undisturbed: str
) -> None:
    run = federation.begin_run()
    wait_for_round(federation, run, 1)
    for owner in reversed(SERVICES):
        for service in SERVICES[owner]:
            container = federation.container(owner, service)
            docker("kill", container)  # by hand: the engine leaves it dead
            assert not is_running(container)
            docker("start", container)
            time.sleep(BETWEEN_S)
    assert not federation.has(run, "finished")
    require_end(federation, run, undisturbed)


def test_the_engine_starts_a_container_that_has_crashed_again(federation: Containers) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may kill the first process of a container from outside")
    container = federation.container(HOSPITALS[0], "trainer")
    before = json.loads(docker("inspect", container))[0]
    os.kill(before["State"]["Pid"], signal.SIGKILL)

    wait_until(lambda: json.loads(docker("inspect", container))[0]["RestartCount"] > before["RestartCount"])
    wait_until(lambda: is_running(container))
    wait_until(lambda: ready(federation, HOSPITALS[0], "trainer"))


@pytest.mark.long
def test_an_upgrade_in_mid_run_resumes_it_and_keys_and_state_stay(
    federation: Containers, undisturbed: str
) -> None:
    for role in ("site", "server"):
        derived = f"FROM medseg-{role}:{federation.tag}\nLABEL org.opencontainers.image.version=next\n"
        words = ("build", "--quiet", "--tag", f"medseg-{role}:next", "-")
        subprocess.run(
            [docker_program() or "docker", *words], input=derived, text=True, check=True, capture_output=True
        )
    run = federation.begin_run()
    wait_for_round(federation, run, 1)
    before = ledger_lines(federation)

    for owner in SERVICES:
        federation.compose(owner, "up", "--detach", tag="next")

    for owner, services in SERVICES.items():
        for service in services:
            image = docker("inspect", "--format={{.Config.Image}}", federation.container(owner, service))
            assert image.strip().endswith(":next")
    require_end(federation, run, undisturbed)
    assert ledger_lines(federation) > before  # the same ledger went on
    for hospital in HOSPITALS:
        federation.inside(hospital, "trainer", "medseg-site", "ledger", "verify", "/site")


@pytest.mark.long
def test_a_coordinator_restored_from_a_backup_of_mid_run_ends_with_the_same_weights(
    federation: Containers, undisturbed: str
) -> None:
    tar = (
        "run",
        "--rm",
        "-T",
        "--no-deps",
        "--entrypoint",
        "tar",
        "superlink",
    )  # as docs/operations.md does it
    run = federation.begin_run()
    wait_for_round(federation, run, 1)
    federation.compose(COORDINATOR, "stop", "superexec", "superlink")
    backup = federation.piped(COORDINATOR, *tar, "-cf", "-", "-C", "/federation", "--exclude=./run", ".")
    federation.compose(COORDINATOR, "up", "--detach")
    wait_for_round(federation, run, 2)

    federation.compose(COORDINATOR, "down", "--volumes")
    federation.piped(COORDINATOR, *tar, "-xf", "-", "-C", "/federation", data=backup)
    federation.compose(COORDINATOR, "up", "--detach")

    require_end(federation, run, undisturbed)
    failed = [str(e["absent"]) for e in federation.events(run) if e["event"] == "round_failed"]
    assert any("conflicting_request" in absent for absent in failed)  # round 2 was answered after the backup


def test_every_container_is_healthy_while_it_would_take_part_in_the_next_round(
    federation: Containers,
) -> None:
    for owner, services in SERVICES.items():
        for service in services:
            wait_until(lambda owner=owner, service=service: ready(federation, owner, service))  # type: ignore[misc]


def test_a_container_that_would_not_take_part_says_why(federation: Containers) -> None:
    hospital = HOSPITALS[0]
    docker("stop", federation.container(COORDINATOR, "superlink"))
    try:
        assert not ready(federation, hospital, "egress")
        assert "superlink does not" in unready(federation, hospital, "egress")
        assert "superlink does not answer" in unready(federation, COORDINATOR, "gateway")
        docker("stop", federation.container(hospital, "trainer"))
        assert "the trainer does not answer" in unready(federation, hospital, "relay")
    finally:
        for owner, service in ((COORDINATOR, "superlink"), (hospital, "trainer")):
            docker("start", federation.container(owner, service))
    for service in SERVICES[hospital]:
        wait_until(lambda service=service: ready(federation, hospital, service))  # type: ignore[misc]


def command(owner: str) -> tuple[str, ...]:
    """The health check of its image."""
    return (
        ("medseg-server", "health", "/federation")
        if owner == COORDINATOR
        else ("medseg-site", "health", "/site")
    )


def ready(federation: Containers, owner: str, service: str) -> bool:
    try:
        return federation.inside(owner, service, *command(owner)) == f"{service}: ready\n"
    except AssertionError:
        return False


def unready(federation: Containers, owner: str, service: str) -> str:
    """What the health check of a container that is not fit says."""
    with pytest.raises(AssertionError) as told:
        federation.inside(owner, service, *command(owner))
    return str(told.value)


def ledger_lines(federation: Containers) -> int:
    lines = federation.inside(HOSPITALS[0], "trainer", "medseg-site", "ledger", "show", "/site", "--json")
    return len(lines.splitlines())
