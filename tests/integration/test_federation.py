"""A coordinator and two hospitals as processes over mutual TLS, from nothing to a model: that of the simulation."""

import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jsonschema
import pytest

from medseg_core.assessment.summary import SCHEMA_FILE
from medseg_core.supervision import free_ports, program
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="coordinators and hospitals run on Linux"),
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
SITES = ("hospital-1", "hospital-2")


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
    for site in SITES:
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
        call(tmp_path, "medseg-site", "approve", site, "tiny.toml")
    return tmp_path


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


def test_a_federation_over_mutual_tls_ends_with_the_weights_of_the_simulation(enrolled: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(kept_up(enrolled, "medseg-server", "server"))
        for site in SITES:
            stack.enter_context(kept_up(enrolled, "medseg-site", site))
        told = call(enrolled, "medseg-server", "run", "server", "tiny.toml")
        assert "finished" in told, told
        (run,) = (enrolled / "server/runs").iterdir()
        assert "published to hospital-1, hospital-2" in told
        assert call(enrolled, "medseg-server", "publish", "server", run.name) == "finished\n"

    words = ("tiny.toml", "--data", "data", "--out", "simulated", "--cache", "cache")
    call(enrolled, "medseg-simulate", "run", *words)
    weights = Path("checkpoints/round_0002/weights.safetensors")
    assert (run / weights).read_bytes() == (enrolled / "simulated" / weights).read_bytes()
    scores_are_those_of_the_simulation(run, enrolled / "simulated")
    the_model_predicts_where_it_was_approved(enrolled, run.name)
    nothing_of_a_case_is_at_the_coordinator(enrolled)


def scores_are_those_of_the_simulation(run: Path, simulated: Path) -> None:
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (run, simulated))
    jsonschema.validate(ours, json.loads(SCHEMA_FILE.read_text()))
    assert ours["global"]["sites"] == theirs["global"]["sites"]
    assert ours["global"]["mean"] == pytest.approx(theirs["global"]["mean"])
    assert ours["sites"] == theirs["sites"]
    for name in ("model.safetensors", "experiment.toml"):
        assert (run / "model" / name).read_bytes() == (simulated / "model" / name).read_bytes()
    assert list((run / "tensorboard/global").glob("events.out.tfevents.*"))


def the_model_predicts_where_it_was_approved(folder: Path, run: str) -> None:
    before = (folder / "server/runs" / run / "report.html").read_bytes()
    assert "report.html" in call(folder, "medseg-server", "report", "server", run)
    assert (folder / "server/runs" / run / "report.html").read_bytes() == before
    for site in SITES:
        assert call(folder, "medseg-site", "models", "list", site) == f"{run}: unapproved\n"
    image = str(next((folder / "data/images").iterdir()))
    call(folder, "medseg-site", "models", "approve", "hospital-1", run)
    call(folder, "medseg-site", "predict", "hospital-1", "--image", image, "--out", "at-hospital")
    call(folder, "medseg-site", "evaluate", "hospital-1", "--out", "scores.json")
    assert json.loads((folder / "scores.json").read_text())["model"]["run"] == run
    model = f"server/runs/{run}/model"
    call(folder, "medseg-simulate", "predict", "--model", model, "--image", image, "--out", "at-coordinator")
    for made in (folder / "at-hospital").glob("*_segmentation*"):
        assert made.read_bytes() == (folder / "at-coordinator" / made.name).read_bytes()
    assert list((folder / "at-hospital").glob("*_segmentation*"))


def nothing_of_a_case_is_at_the_coordinator(folder: Path) -> None:
    with (folder / "data/manifest.csv").open(newline="") as file:
        names = {
            row[key].encode() for row in csv.DictReader(file) for key in ("case_id", "patient_id", "image")
        }
    files = [path for path in (folder / "server").rglob("*") if path.is_file()]
    assert [path for path in files if any(name in path.read_bytes() for name in names)] == []
