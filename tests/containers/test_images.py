"""What an image is: small, without sources or secrets, not run by root, with what it was built from on its label."""

import json

import pytest
from engine import docker

ROLES = ("site", "server")
LARGEST_GB = 1.7  # of a CPU image

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("role", ROLES)]


def image_of(role: str, tag: str) -> dict[str, object]:
    (found,) = json.loads(docker("image", "inspect", f"medseg-{role}:{tag}"))
    assert isinstance(found, dict)
    return found


def run(role: str, tag: str, *words: str) -> str:
    """What a command printed in a container of the image, as hard as in the compose files."""
    hardened = (
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--network=none",
        "--tmpfs=/tmp",
    )
    return docker("run", "--rm", *hardened, f"--entrypoint={words[0]}", f"medseg-{role}:{tag}", *words[1:])


def test_it_is_no_larger_than_it_may_be(images: str, role: str) -> None:
    size_gb = int(str(image_of(role, images)["Size"])) / 1e9
    print(f"medseg-{role}: {size_gb:.2f} GB")  # noqa: T201
    assert size_gb <= LARGEST_GB


def test_it_says_what_it_is_and_who_it_runs_as(images: str, role: str) -> None:
    config = image_of(role, images)["Config"]
    assert isinstance(config, dict)
    labels = {key.rsplit(".", 1)[1]: value for key, value in config["Labels"].items()}
    assert labels["title"] == f"medseg-{role}"
    assert labels["licenses"] == "Apache-2.0"
    assert "Research use only" in labels["description"]
    assert labels["version"] != "unknown"
    assert labels["revision"] != "unknown"
    assert config["User"].split(":")[0].isdecimal()
    assert config["User"] != "0:0"
    assert config["Healthcheck"]["Test"] == ["CMD", f"medseg-{role}", "health", f"/{_folder(role)}"]


def test_it_holds_the_wheel_and_no_sources_keys_or_installers(images: str, role: str) -> None:
    code = (
        "import importlib.metadata as m, pathlib, medseg_core; "
        "print(medseg_core.__file__); print(m.distribution('medseg').read_text('INSTALLER')); "
        "print([str(p) for p in pathlib.Path('/').glob('build*')]); "
        "print([d for d in ('ray', 'pytest', 'pip') if d in {x.metadata['Name'] for x in m.distributions()}])"
    )
    path, installer, *_, built, others = run(role, images, "python", "-c", code).splitlines()
    assert path.startswith("/opt/medseg/lib/")
    assert installer == "pip"
    assert built == "[]"
    assert others == "[]"
    assert run(role, images, "find", f"/{_folder(role)}", "-type", "f") == ""


def test_its_programs_start_without_root_capabilities_or_a_writable_root(images: str, role: str) -> None:
    assert "Usage" in run(role, images, f"medseg-{role}", "--help")
    status = run(role, images, "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"].strip("0") == ""
    assert fields["CapBnd"].strip("0") == ""
    assert "0" not in fields["Uid"].split()


def _folder(role: str) -> str:
    return {"site": "site", "server": "federation"}[role]
