"""A coordinator and two hospitals as processes over mutual TLS, from nothing to a model: that of the simulation."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from medseg_core.supervision import free_ports, program
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is the gateway: apt-get install nginx"),
]
EXPERIMENT = """
[task]
name = "tiny"
spatial_dims = 2
channels = [{ name = "grey" }]
labels = { organ = 1, lesion = 2 }
[model]
channels = [4, 8]
residual_units = 1
[training]
patch_size = [16, 16]
cpu_threads = 1
[federation]
rounds = 2
optimiser_memory = true
server_momentum = 0.5
"""
RUN_S = 240


def call(folder: Path, *words: str) -> str:
    """What a command printed; it ended well."""
    done = subprocess.run(
        [program(words[0]), *words[1:]], cwd=folder, text=True, capture_output=True, timeout=RUN_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fingerprint_in(text: str) -> str:
    found = re.search(r"[0-9a-f]{4}(-[0-9a-f]{4}){4}", text)
    assert found is not None
    return found.group()


@pytest.fixture
def enrolled(tmp_path: Path) -> Path:
    """A federation of two phantom hospitals that agreed to one experiment; nothing runs yet."""
    write_phantoms(tmp_path / "data", PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0))
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    federation = call(tmp_path, "medseg-server", "init", "server", "--name", "trial", "--address", address)
    with (tmp_path / "data/manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for site in ("hospital-1", "hospital-2"):
        own = [
            r | {key: f"../data/{r[key]}" for key in ("image", "label")} for r in rows if r["site"] == site
        ]
        (tmp_path / f"images-{site}").mkdir()
        with (tmp_path / f"images-{site}" / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, own[0])
            writer.writeheader()
            writer.writerows(own)
        made = call(tmp_path, "medseg-site", "init", site, "--name", site, "--data", f"images-{site}")
        request, kit = f"{site}/{site}.request.json", f"server/kits/{site}.kit.json"
        call(tmp_path, "medseg-server", "approve", "server", request, "--fingerprint", fingerprint_in(made))
        call(tmp_path, "medseg-site", "join", site, kit, "--fingerprint", fingerprint_in(federation))
        allow_small_cohorts(tmp_path / site / "site.toml")
    assert "What leaves" in call(tmp_path, "medseg-site", "approve", "hospital-1", "tiny.toml", "--yes")
    settings = tmp_path / "hospital-2" / "site.toml"  # approves whatever is for this task
    settings.write_text(settings.read_text().replace("approve_tasks = []", 'approve_tasks = ["tiny"]'))
    return tmp_path


def allow_small_cohorts(settings: Path) -> None:
    """The phantom hospitals have four patients each, fewer than a site gives figures of."""
    text, n_changed = re.subn(r"(min_patients_\w+) = 5", r"\1 = 1", settings.read_text())
    assert n_changed == 2
    settings.write_text(text)


@contextmanager
def kept_up(folder: Path, command: str, name: str) -> Iterator[None]:
    """`COMMAND up NAME` while inside; it stops cleanly afterwards."""
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen([program(command), "up", name], cwd=folder, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="servers and hospitals run on Linux")
def test_a_federation_over_mutual_tls_ends_with_the_weights_of_the_simulation(enrolled: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(kept_up(enrolled, "medseg-server", "server"))
        for site in ("hospital-1", "hospital-2"):
            stack.enter_context(kept_up(enrolled, "medseg-site", site))
        told = call(enrolled, "medseg-server", "run", "server", "tiny.toml")
    assert "finished" in told, told

    words = ("tiny.toml", "--data", "data", "--out", "simulated", "--cache", "cache")
    call(enrolled, "medseg-simulate", "run", *words)
    (run,) = (enrolled / "server/runs").iterdir()
    weights = Path("checkpoints/round_0002/weights.safetensors")
    assert (run / weights).read_bytes() == (enrolled / "simulated" / weights).read_bytes()

    for site in ("hospital-1", "hospital-2"):
        entered = [
            json.loads(e) for e in call(enrolled, "medseg-site", "ledger", site, "--json").splitlines()
        ]
        answers = [entry["header"] for entry in entered]
        assert [h["kind"] for h in answers] == [
            "describe",
            "train",
            "evaluate",
            "train",
            "evaluate",
            "evaluate",
        ]
        assert {h["direction"] for h in answers} == {"reply"}
        told = last_event(run, "round_finished")["contributed"][site]
        call(enrolled, "medseg-site", "ledger", "verify", site, "--head", told["ledger_head"])


def last_event(run: Path, name: str) -> dict[str, Any]:
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == name][-1]
