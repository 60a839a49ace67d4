"""Dockerfiles, systemd units and Kubernetes manifests, as the tools for them judge."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import ROOT

DEPLOY = ROOT / "deploy"
SCRIPTS = Path(sysconfig.get_path("scripts"))
DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
UNITS = sorted(DEPLOY.glob("systemd/*.service"))
MANIFESTS = sorted(set(DEPLOY.glob("kubernetes/*.yaml")) - {DEPLOY / "kubernetes/kustomization.yaml"})
HIGHEST_EXPOSURE = 3.0

pytestmark = pytest.mark.skipif(os.name != "posix", reason="deployments are for Linux")


def call(*words: str | Path) -> str:
    done = subprocess.run(words, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing_in_a_dockerfile(path: Path) -> None:
    assert call(SCRIPTS / "hadolint", path) == ""


def test_both_dockerfiles_build_the_same_but_for_the_side() -> None:
    site, server = (
        path.read_text().split("\nFROM ")[1]
        for path in (DEPLOY / "site.Dockerfile", DEPLOY / "server.Dockerfile")
    )
    assert site.replace('["client"]', '["server"]') == server


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with programs that are there on this machine."""
    for path in DEPLOY.glob("systemd/*.*"):
        text = path.read_text().replace("/opt/medseg/bin/", f"{SCRIPTS}/")
        (tmp_path / path.name).write_text(text)
    return tmp_path


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@needs_systemd
def test_systemd_has_nothing_to_say_of_the_units(units: Path) -> None:
    paths = [*units.glob("*.service"), *units.glob("*.target")]
    assert call("systemd-analyze", "verify", "--man=no", *paths) == ""


@needs_systemd
@pytest.mark.parametrize("name", [path.name for path in UNITS])
def test_a_unit_is_exposed_less_than_it_may_be(units: Path, name: str) -> None:
    said = call("systemd-analyze", "security", "--offline=true", "--no-pager", units / name)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None
    assert float(found.group(1)) < HIGHEST_EXPOSURE


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_command_that_is_there(path: Path) -> None:
    (command,) = re.findall(r"^ExecStart=/opt/medseg/bin/(.*)$", path.read_text(), re.MULTILINE)
    program, *words = command.split()
    shown = call(SCRIPTS / program, words[0], "--help")
    assert all(option in shown for option in words if option.startswith("--"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_fits_its_schema(path: Path) -> None:
    assert "passed" in call(SCRIPTS / "kubernetes-validate", "--strict", path)


def documents() -> list[dict[str, Any]]:
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


def test_the_kustomization_names_every_manifest_but_the_one_that_runs_once() -> None:
    base = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    assert {*base["resources"], "init.yaml"} == {path.name for path in MANIFESTS}


def test_every_pod_is_restricted_and_every_container_limited() -> None:
    pods = [d["spec"]["template"]["spec"] for d in documents() if d["kind"] in ("Deployment", "Job")]
    assert len(pods) == 3
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"]
            assert not rights["allowPrivilegeEscalation"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_nobody_reaches_the_superlink_but_the_gateway() -> None:
    policies = {d["metadata"]["name"]: d["spec"] for d in documents() if d["kind"] == "NetworkPolicy"}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (rule,) = policies["coordinator"]["ingress"]
    (who,) = rule["from"]
    assert who["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "gateway"}
    assert "egress" not in policies["coordinator"]
