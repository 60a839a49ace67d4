"""`--profile`: a trace of training steps that can be read, and the same weights."""

import gzip
import json

import pytest
import torch
from builders import make_experiment, make_site_data, newest_sha256
from command_line import caller
from experiments import TINY

from medseg_server.run_store import RunStore
from medseg_simulation.fold import Compute, FoldWatch, run_fold
from medseg_simulation.phantoms import PhantomSettings, write_phantoms
from medseg_simulation.profiling import StepTrace

ROUNDS = 2


def trained(folder, *, cases, trace=None):
    """Identity of the model that a federation of two sites ends with."""
    experiment = make_experiment(federation={"rounds": ROUNDS}, training={"batch_size": 1})
    data = {site: make_site_data(site, train=cases) for site in ("east", "north")}
    compute = Compute(torch.device("cpu"), sites_at_once=2, trace=trace)
    watch = FoldWatch(lambda model, record: None, lambda text: None)
    run_fold(experiment, data, folder, compute=compute, resume=False, watch=watch)
    return newest_sha256(RunStore(folder))


@pytest.mark.parametrize("steps", [4, 5, 6])
def test_the_trace_has_three_steps_with_their_operators(tmp_path, steps):
    path = tmp_path / "profile.json.gz"

    trained(tmp_path / "run", cases=steps, trace=StepTrace(path))

    names = [event.get("name", "") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]]
    assert {"ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"} <= set(names)
    assert any("conv" in name for name in names)
    assert sum(name.startswith("ProfilerStep#") for name in names) == 3


def test_the_weights_are_the_same_bits_with_it(tmp_path):
    watched = trained(tmp_path / "watched", cases=6, trace=StepTrace(tmp_path / "profile.json.gz"))

    assert watched == trained(tmp_path / "plain", cases=6)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_rounds_of_too_few_steps_leave_no_trace_and_train(tmp_path, steps):
    path = tmp_path / "profile.json.gz"

    trained(tmp_path / "run", cases=steps, trace=StepTrace(path))

    assert not path.exists()


def test_the_command_says_that_there_is_no_trace_and_why(tmp_path, monkeypatch, capsys):
    write_phantoms(tmp_path / "data", PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0))
    (tmp_path / "tiny.toml").write_text(f"{TINY}[federation]\nrounds = 1\n")
    words = [
        "run",
        tmp_path / "tiny.toml",
        "--data",
        tmp_path / "data",
        "--out",
        tmp_path / "run",
        "--profile",
    ]

    call = caller(monkeypatch, capsys)
    outcome = call(*words, "--cache", tmp_path / "cache")

    assert outcome.code == 0, outcome.err
    assert (
        "no profile.json.gz: no round was trained of four steps or more. Raise --local-epochs" in outcome.err
    )
    assert not (tmp_path / "run" / "profile.json.gz").exists()

    again = call(*words, "--cache", tmp_path / "cache", "--resume")
    assert "the run was finished, and nothing was trained. Choose another --out" in again.err
