"""The compose files: both programs take them, every service is hardened, every variable is explained."""

import json
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT

DEPLOY = ROOT / "deploy"
PROJECTS = {
    "server": ["server/compose.yaml"],
    "site": ["site/compose.yaml"],
    "site with a GPU": ["site/compose.yaml", "site/compose.gpu.yaml"],
    "demonstration: coordinator": ["server/compose.yaml", "demo/compose.yaml"],
    "demonstration: hospital": ["site/compose.yaml", "demo/compose.yaml"],
}
PROGRAMS = {
    "Compose v2": Path(sysconfig.get_path("scripts")) / "docker-compose",
    "docker-compose 1.29": Path("/usr/bin/docker-compose"),
}
ALLOWED_WITH_ROOT = {"setup": ["CHOWN", "DAC_OVERRIDE", "FOWNER"], "check": ["DAC_READ_SEARCH"]}

pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="containers are for Linux")


def config(program: Path, files: list[str], *words: str, **environment: str) -> str:
    """The files as a program reads them."""
    named = [word for name in files for word in ("-f", str(DEPLOY / name))]
    everything = ["--profile", "*"] if program == PROGRAMS["Compose v2"] else ["--profile", "setup"]
    done = subprocess.run(
        [program, *named, *everything, "config", *words],
        env=os.environ | environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def services(files: list[str]) -> dict[str, dict[str, Any]]:
    text = config(PROGRAMS["Compose v2"], files, "--format", "json")
    found: dict[str, dict[str, Any]] = json.loads(text)["services"]
    return found


EVERY = [
    pytest.param(project, name, id=f"{project}: {name}")
    for project in ("server", "site")
    for name in services(PROJECTS[project])
]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("project", PROJECTS)
def test_both_programs_take_the_files(program: str, project: str) -> None:
    if not PROGRAMS[program].exists():
        pytest.skip(f"{program} is not installed")
    config(PROGRAMS[program], PROJECTS[project], "--quiet")


@pytest.mark.parametrize(("project", "name"), EVERY)
def test_a_service_can_do_no_more_than_it_needs(project: str, name: str) -> None:
    service = services(PROJECTS[project])[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("cap_add", []) == ALLOWED_WITH_ROOT.get(name, [])
    assert (service.get("user") == "0:0") == (name in ALLOWED_WITH_ROOT)
    assert service["restart"] == ("no" if name in ALLOWED_WITH_ROOT else "unless-stopped")
    assert not service.get("privileged")
    assert int(service["pids_limit"]) <= 512
    assert int(service["mem_limit"]) > 0
    assert service["logging"] == {"driver": "json-file", "options": {"max-file": "3", "max-size": "10m"}}
    assert not any("docker.sock" in str(volume) for volume in service["volumes"])


def test_only_the_way_out_of_a_hospital_has_a_network_with_a_way_out() -> None:
    found = services(PROJECTS["site"])
    assert found["trainer"]["network_mode"] == found["setup"]["network_mode"] == "none"
    assert set(found["relay"]["networks"]) == {"inside"}
    assert set(found["egress"]["networks"]) == {"inside", "outside"}
    networks = json.loads(config(PROGRAMS["Compose v2"], PROJECTS["site"], "--format", "json"))["networks"]
    assert networks["inside"]["internal"] is True
    assert not any("ports" in service for service in found.values())


def test_only_the_gateway_of_a_coordinator_can_be_reached() -> None:
    found = services(PROJECTS["server"])
    assert [name for name, service in found.items() if "ports" in service] == ["gateway"]
    assert set(found["superlink"]["networks"]) == set(found["superexec"]["networks"]) == {"inside"}
    assert [v["target"] for v in found["gateway"]["volumes"]] == ["/federation/gateway", "/federation/logs"]


def test_only_the_trainer_and_the_check_see_the_images_and_cannot_change_them() -> None:
    seen = {
        name: volume.get("read_only")
        for name, service in services(PROJECTS["site"]).items()
        for volume in service["volumes"]
        if volume["target"] == "/data"
    }
    assert seen == {"trainer": True, "check": True}


def test_the_gpu_is_the_trainers_alone() -> None:
    found = services(PROJECTS["site with a GPU"])
    with_gpu = {n: s["deploy"]["resources"] for n, s in found.items() if "reservations" in json.dumps(s)}
    assert list(with_gpu) == ["trainer"]
    assert with_gpu["trainer"]["reservations"]["devices"][0]["driver"] == "nvidia"


@pytest.mark.parametrize("project", ["server", "site"])
def test_every_variable_is_explained_with_its_default(project: str) -> None:
    files = "".join(path.read_text() for path in (DEPLOY / project).glob("compose*.yaml"))
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", files))
    explained = (DEPLOY / project / ".env.example").read_text()
    assert dict(re.findall(r"^(\w+)=(.*)$", explained, re.MULTILINE)) == used
    for name in used:
        assert re.search(rf"^# .*\n(?:\w+=.*\n)*{name}=", explained, re.MULTILINE), name
