"""The guides for coordinators and hospitals, worked through together in one folder, in the order of their steps."""

import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from documents import ROOT, Block, blocks
from experiments import TINY
from waiting import wait_until

from medseg_core.supervision import free_ports, program
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="coordinators and hospitals run on Linux"),
]
GUIDES = {"federation": ROOT / "docs/coordinator.md", "site": ROOT / "docs/hospital.md"}
PATIENCE_S = 60.0


def steps() -> list[Block]:
    """The blocks of both guides in the order of their marks; blocks of one mark as they stand.

    `no-test` blocks, such as of programs that wait for a person, have tests of their own.
    """
    found = [b for path in GUIDES.values() for b in blocks(path, "sh") if "no-test" not in b.marks]
    return sorted(found, key=lambda block: next(mark for mark in block.marks if mark.startswith("step-")))


def post(folder: Path) -> None:
    """Bring requests and kits to the other side, as e-mail would."""
    for letter in (*folder.glob("site/*.request.json"), *folder.glob("federation/kits/*.kit.json")):
        shutil.copy(letter, folder / letter.name)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def follow(line: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of a guide, answered with yes."""
    return subprocess.run(line, cwd=folder, input="y\n", text=True, capture_output=True, timeout=PATIENCE_S)


def wait_for_logs(folder: Path, names: list[str]) -> None:
    wait_until(lambda: all((folder / name).exists() for name in names), PATIENCE_S)


def named_logs(guide: Path) -> list[str]:
    """Those of its table that are there without further settings."""
    rows = re.findall(r"^\| `.*$", guide.read_text(), re.MULTILINE)
    cells = [row.split("|")[1] for row in rows if "where there is one" not in row]
    return re.findall(r"`([a-z./]+\.log)`", "".join(cells))


def test_both_guides_do_what_they_say(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "images", PhantomSettings(sites=1, cases=8, spatial_dims=2, voxel_mm=4.0))
    (tmp_path / "experiment.toml").write_text(TINY)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with ExitStack() as stack:
        for block in steps():
            for name, *words in block.commands:
                line = [program(name), *(word.replace("fed.example.org:8443", address) for word in words)]
                if "background" in block.marks:
                    stack.callback(stop, subprocess.Popen(line, cwd=tmp_path))
                    owner = words[-1]
                    wait_for_logs(tmp_path / owner / "logs", named_logs(GUIDES[owner]))
                    continue
                post(tmp_path)
                done = follow(line, tmp_path)
                if (
                    "does not know this node key" in done.stdout
                ):  # `approve` ends before the gateway has read the roster
                    wait_until(lambda line=line: follow(line, tmp_path).returncode == 0, PATIENCE_S)  # type: ignore[misc]
                    continue
                assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    logged = "".join(path.read_text() for path in (tmp_path / "federation/logs").glob("gateway.access.log"))
    assert "CN=north" in logged
    for folder in ("federation/logs", "site/logs"):
        for path in (tmp_path / folder).rglob("*.log"):
            assert "PRIVATE" not in path.read_text(), path
            assert "hospital-1-00" not in path.read_text(), path


@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
def test_every_block_of_commands_has_its_step(guide: Path) -> None:
    assert all(any(mark.startswith("step-") for mark in block.marks) for block in blocks(guide, "sh"))
    assert named_logs(guide)
