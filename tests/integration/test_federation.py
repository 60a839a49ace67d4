"""A coordinator and two hospitals as processes over mutual TLS, from nothing to a model: that of the simulation."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import SimpleITK
from experiments import TINY
from loopback import COORDINATOR, SITES, Loopback, call, make_loopback

from medseg_core.assessment.summary import SCHEMA_FILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="coordinators and hospitals run on Linux"),
]
EXPERIMENT = f"""{TINY}[federation]
rounds = 2
optimiser_memory = true
server_momentum = 0.5
"""
WEIGHTS = "checkpoints/round_0002/weights.safetensors"


@pytest.fixture
def federation(tmp_path: Path) -> Loopback:
    """Two phantom hospitals; the second approves whatever is for this task. Nothing runs yet."""
    made = make_loopback(tmp_path, EXPERIMENT, cases=4)
    settings, approved = tmp_path / SITES[1] / "site.toml", tmp_path / SITES[1] / "approved"
    settings.write_text(settings.read_text().replace("approve_tasks = []", 'approve_tasks = ["tiny"]'))
    for path in approved.iterdir():
        path.unlink()
    return made


def test_a_federation_over_mutual_tls_ends_with_the_weights_of_the_simulation(federation: Loopback) -> None:
    root = federation.root
    with federation.kept_up():
        told = call(root, "medseg-server", "run", COORDINATOR, "experiment.toml")
        assert "finished" in told, told
        assert "published to hospital-1, hospital-2" in told
        again = call(root, "medseg-server", "publish", COORDINATOR, federation.run.name)
        assert again.startswith("finished\nreport: ")
    simulated = federation.simulated()
    assert (federation.run / WEIGHTS).read_bytes() == (simulated / WEIGHTS).read_bytes()
    scores_are_those_of_the_simulation(federation.run, simulated)
    the_model_predicts_where_it_was_approved(root, federation.run.name)
    every_answer_is_in_the_ledger_of_its_site(federation)
    each_side_sees_what_it_may(federation)
    nothing_of_a_case_is_at_the_coordinator(root)


def scores_are_those_of_the_simulation(run: Path, simulated: Path) -> None:
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (run, simulated))
    jsonschema.validate(ours, json.loads(SCHEMA_FILE.read_text()))
    assert ours["global"]["sites"] == theirs["global"]["sites"]
    assert ours["global"]["mean"] == pytest.approx(theirs["global"]["mean"])
    assert ours["sites"] == theirs["sites"]
    for name in ("model.safetensors", "experiment.toml"):
        assert (run / "model" / name).read_bytes() == (simulated / "model" / name).read_bytes()
    assert list((run / "tensorboard/global").glob("events.out.tfevents.*"))


def the_model_predicts_where_it_was_approved(root: Path, run: str) -> None:
    model = root / COORDINATOR / "runs" / run
    before = (model / "report.html").read_bytes()
    assert "report.html" in call(root, "medseg-server", "report", COORDINATOR, run)
    assert (model / "report.html").read_bytes() == before
    for site in SITES:
        assert call(root, "medseg-site", "models", "list", site) == f"{run}: unapproved\n"
    image = str(next((root / "images/images").iterdir()))
    call(root, "medseg-site", "models", "approve", "hospital-1", run)
    call(root, "medseg-site", "predict", "hospital-1", "--image", image, "--out", "at-hospital")
    call(root, "medseg-site", "evaluate", "hospital-1", "--out", "scores.json")
    assert json.loads((root / "scores.json").read_text())["model"]["run"] == run
    words = ("--model", str(model / "model"), "--image", image, "--out", "at-coordinator")
    call(root, "medseg-simulate", "predict", *words)
    for made in (root / "at-hospital").glob("*_segmentation*"):
        assert made.read_bytes() == (root / "at-coordinator" / made.name).read_bytes()
    assert list((root / "at-hospital").glob("*_segmentation*"))


def every_answer_is_in_the_ledger_of_its_site(federation: Loopback) -> None:
    standings = json.loads(call(federation.root, "medseg-server", "sites", COORDINATOR, "--json"))
    newest = {standing["site"]: standing["ledger"] for standing in standings}
    for site in SITES:
        lines = call(federation.root, "medseg-site", "ledger", site, "--json").splitlines()
        answers = [json.loads(line)["header"] for line in lines]
        kinds = ["describe", "train", "train", "evaluate", "evaluate", "publish"]
        assert [answer["kind"] for answer in answers] == kinds
        assert {answer["direction"] for answer in answers} == {"reply"}
        assert newest[site]["sequence"] == len(lines)
        call(federation.root, "medseg-site", "ledger", "verify", site, "--head", newest[site]["sha256"])


def each_side_sees_what_it_may(federation: Loopback) -> None:
    shown = call(federation.root, "medseg-server", "status", COORDINATOR, federation.run.name)
    assert shown.count("processor threads; medseg") == len(SITES)
    for site in SITES:
        call(federation.root, "medseg-site", "report", site)
        page = (federation.root / site / "report.html").read_text()
        assert federation.run.name in page
        assert "Worst test cases" in page


def nothing_of_a_case_is_at_the_coordinator(root: Path) -> None:
    """No identifier, no path of a hospital and no row of an image, in any file that the coordinator keeps."""
    planted = {str(root / site).encode() for site in SITES}
    with (root / "images/manifest.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            planted |= {row[key].encode() for key in ("case_id", "patient_id", "image", "label")}
            planted |= set(rows_of(root / "images" / row["image"]))
    files = [path for path in (root / COORDINATOR).rglob("*") if path.is_file()]
    assert [path for path in files if any(name in path.read_bytes() for name in planted)] == []


def rows_of(image: Path) -> Iterator[bytes]:
    """The middle row of an image as it may lie in memory."""
    voxels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(image)))
    middle = voxels[len(voxels) // 2]
    for dtype in (voxels.dtype, np.float32, np.float64):
        yield middle.astype(dtype).tobytes()
