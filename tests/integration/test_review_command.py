"""`medseg-site review` as a process: an address on the terminal, a page until Ctrl-C, a model that segments."""

import contextlib
import json
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PROGRAM, browser
from command_line import Outcome, caller
from reviewing import write_cohort, write_grid
from trained_model import write_trained

from medseg_core.commands.predict import segment_images
from medseg_core.imaging.io import read_label
from medseg_core.supervision import free_ports, program
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

DICOM = Path(__file__).parents[3] / "shared" / "data" / "dicom" / "sts" / "STS_001"

pytestmark = pytest.mark.slow


@contextmanager
def reviewing(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the page's own address."""
    line = [program("medseg-site"), "review", *map(str, words)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(2)]
        assert "This page stays on this machine" in told[0], process.stderr and process.stderr.read()
        with urllib.request.urlopen(told[1].strip(), timeout=60) as page:  # noqa: S310
            assert b"medseg review" in page.read()
            yield process, page.url
    finally:
        process.kill()
        process.communicate()


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310
        return json.load(answer)


@pytest.fixture
def medseg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return caller(monkeypatch, capsys, "medseg-site")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_quietly_when_it_is_told_to(tmp_path: Path, number: signal.Signals) -> None:
    with reviewing(write_cohort(tmp_path)) as (process, address):
        get(f"{address}case/a/labels.json")
        process.send_signal(number)
        begun = time.monotonic()
        out, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (0, "")
    assert time.monotonic() - begun < 20
    assert out.count("http://127.0.0.1:") == 1  # the address for once more


def test_a_port_of_ones_own_choice_is_used(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with reviewing(write_cohort(tmp_path), "--port", port) as (_, address):
        assert address.startswith(f"http://127.0.0.1:{port}/")


def test_predictions_scores_and_an_experiment_come_together(tmp_path: Path) -> None:
    folder = write_cohort(tmp_path)
    cases = [{"case_id": name, "mean": {"dice": dice}} for name, dice in (("a", 0.9), ("b", 0.2))]
    (folder / "scores.json").write_text(json.dumps({"cases": cases}))
    (folder / "experiment.toml").write_text(
        '[task]\nname = "t"\nspatial_dims = 3\nchannels = [{ name = "ct", modality = "CT" }]\n'
        "labels = { heart = 1, lung = 2 }\n[training]\npatch_size = [16, 16, 16]\n"
    )
    words = ["--predictions", folder / "predictions", "--scores", folder / "scores.json"]
    with reviewing(folder, *words, "--experiment", folder / "experiment.toml") as (_, address):
        listed = get(f"{address}cases.json")["cases"]
        layers = get(f"{address}case/b/image.json")["layers"]
        labels = get(f"{address}case/b/labels.json")

    assert [case["dice"] for case in listed] == [0.9, 0.2, None]
    assert (layers[0]["name"], layers[0]["modality"]) == ("ct", "CT")
    assert labels["names"] == ["heart", "lung"]


def test_a_model_segments_the_case_that_is_opened_as_predict_does(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "data", PhantomSettings(sites=1, cases=2, spatial_dims=2, voxel_mm=8.0))
    channels, labels = [{"name": "T1"}], {"organ": 1, "lesion": 2}
    write_trained(
        tmp_path / "model",
        task={"name": "phantom", "channels": channels, "labels": labels},
        model={"channels": [4, 8]},
    )
    with reviewing(tmp_path / "data", "--model", tmp_path / "model", "--device", "cpu") as (process, address):
        name = get(f"{address}cases.json")["cases"][0]["id"]
        found = get(f"{address}case/{name}/labels.json")
        with urllib.request.urlopen(f"{address}case/{name}/image/0/prediction", timeout=60) as answer:  # noqa: S310
            shown = np.frombuffer(answer.read(), np.uint8)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0

    assert found["truth"]
    assert found["prediction"]
    assert found["names"] == ["organ", "lesion"]
    expected = segmented(tmp_path, name)
    assert np.array_equal(shown.reshape(expected.shape), expected)


def test_it_ends_quietly_while_a_model_segments(tmp_path: Path) -> None:
    write_grid(
        tmp_path / "data/knee.nii.gz", np.random.default_rng(0).normal(size=(96, 96, 96)).astype(np.float32)
    )
    write_trained(
        tmp_path / "model",
        task={"name": "t", "spatial_dims": 3},
        model={"channels": [16, 32, 64]},
        training={"patch_size": [32, 32, 32]},
    )
    with reviewing(tmp_path / "data", "--model", tmp_path / "model", "--device", "cpu") as (process, address):
        waiting = threading.Thread(target=ask_until_the_end, args=(f"{address}case/knee/labels.json",))
        waiting.start()
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        waiting.join()

    assert (process.returncode, err) == (0, "")


def ask_until_the_end(address: str) -> None:
    with contextlib.suppress(OSError):
        get(address)


def segmented(folder: Path, name: str) -> Any:
    """The label map of `predict`, as rows."""
    image = next(path for path in (folder / "data").rglob("*") if path.name.startswith(name))
    segment_images(folder / "model", [str(image)], folder / "out", device="cpu")
    (path,) = (folder / "out").glob("*_segmentation.*")
    return read_label(path, spatial_dims=2, case_id=name).voxels[0].T


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (
            ["--predictions", "nowhere"],
            1,
            "predictions nowhere: it cannot be read (No such file or directory).",
        ),
        (["--scores", "nowhere.json"], 1, "scores nowhere.json: it cannot be read"),
        (["--model", "m", "--predictions", "p"], 2, "--model segments by itself and knows its labels"),
        (["--port", "70000"], 1, "ports go from 0 to 65535"),
        (["--experiment", "nowhere.toml"], 1, "nowhere.toml"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_shown(
    tmp_path: Path, medseg: Any, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, sentence: str
) -> None:
    write_cohort(tmp_path)
    monkeypatch.chdir(tmp_path)

    outcome: Outcome = medseg("review", tmp_path, *words)

    assert outcome.code == code
    assert sentence in " ".join(outcome.err.split())


@pytest.mark.skipif(not DICOM.is_dir(), reason=f"the published sets are not at {DICOM}")
def test_a_folder_of_dicom_is_shown_as_it_is() -> None:
    with reviewing(DICOM) as (_, address):
        listed = get(f"{address}cases.json")["cases"]
        labels = get(f"{address}case/MR-1/labels.json")

    assert [(case["id"], case["truth"]) for case in listed] == [
        ("CT-1", True),
        ("MR-1", True),
        ("PT-1", True),
    ]
    assert labels["names"] == ["GTV_Mass_MR_T1"]


def test_a_folder_without_any_image_is_told(tmp_path: Path, medseg: Any) -> None:
    (tmp_path / "notes.txt").write_text("no image")

    outcome: Outcome = medseg("review", tmp_path)

    assert outcome.code == 1
    assert "it has no list of cases" in outcome.err


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine: make chromium")
def test_a_page_whose_server_has_ended_says_so(tmp_path: Path) -> None:
    with reviewing(write_cohort(tmp_path)) as (process, address), browser() as page:
        page.open(address)
        page.wait_for("state.labels !== null")
        process.send_signal(signal.SIGINT)
        process.wait(60)
        page.run("void openCase('b')")
        page.wait_for("!$('message').hidden")

        assert "medseg-site review has ended" in page.run("$('message').textContent")
