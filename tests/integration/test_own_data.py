"""The coordinator's own cases: scored each round and at the end, beside the sites'; they choose nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import initial_weights, make_experiment, make_federation, make_site_data
from command_line import caller
from experiments import TINY

from medseg_core.assessment.summary import read_summary
from medseg_core.errors import DivergedError, MedsegError
from medseg_core.federation.checkpoint import load_checkpoint
from medseg_server.conduct import conduct
from medseg_server.own_data import NAME, OwnData, open_own_data
from medseg_server.rounds import Run
from medseg_simulation.phantoms import PhantomSettings, write_phantoms

EXPERIMENT = make_experiment(federation={"rounds": 2})


def own_cases() -> OwnData:
    data = make_site_data("elsewhere", test=4)
    return OwnData([replace(c, case=replace(c.case, site=NAME)) for c in data.test], EXPERIMENT)


def federation(folder: Path) -> Run:
    return make_federation(
        folder, EXPERIMENT, {site: make_site_data(site, test=2) for site in ("north", "south")}
    )


def test_the_global_model_is_scored_each_round_and_at_the_end(tmp_path: Path) -> None:
    own = own_cases()
    run = replace(federation(tmp_path), own_data=own)
    best = conduct(run).best_round
    summary = read_summary(run.store.folder / "summary.json")
    weights = {n: load_checkpoint(run.store.checkpoints / f"round_{n:04d}").state.weights for n in (1, 2)}
    told = [point.server_dice for point in summary.curves_by_fold[0].shared]
    assert told == [own.dice(dict(weights[n])) for n in (1, 2)]
    assert summary.server is not None
    assert summary.server.model_dump() == pytest.approx(own.scores(dict(weights[best])))
    assert summary.server.n_cases == 4
    report = (run.store.folder / "report.html").read_text()
    assert "Coordinator's own set" in report
    assert "on the coordinator" in report


def test_a_training_of_theirs_that_diverges_is_a_sentence() -> None:
    weights = {name: tensor * np.float32("nan") for name, tensor in initial_weights(EXPERIMENT).items()}
    with pytest.raises(DivergedError, match=r"round 2, site coordinator"):
        own_cases().update(weights, 2)


def test_they_change_neither_the_model_nor_the_round_that_is_chosen(tmp_path: Path) -> None:
    plain, scored = federation(tmp_path / "a"), replace(federation(tmp_path / "b"), own_data=own_cases())
    assert conduct(plain).best_round == conduct(scored).best_round
    name = "checkpoints/round_0002/weights.safetensors"
    assert (plain.store.folder / name).read_bytes() == (scored.store.folder / name).read_bytes()
    assert "server" not in json.loads((plain.store.folder / "summary.json").read_text())


def test_a_folder_is_found_from_where_the_experiment_is_read(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "mine", PhantomSettings(sites=1, cases=2, spatial_dims=2, voxel_mm=4.0))
    task = {"labels": {"organ": 1, "lesion": 2}}
    experiment = make_experiment(task=task, evaluation={"server_data": "mine"})
    own = open_own_data(experiment, base=tmp_path, cache=tmp_path / "cache", on_warning=lambda text: None)
    assert own is not None
    scores = own.scores(initial_weights(experiment))
    assert scores["n_patients"] == 2


def test_without_a_folder_there_is_nothing_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    words = {"base": tmp_path, "cache": tmp_path / "cache", "on_warning": print}
    assert open_own_data(make_experiment(), **words) is None
    with pytest.raises(MedsegError, match="nowhere"):
        open_own_data(make_experiment(evaluation={"server_data": "nowhere"}), **words)


@pytest.mark.parametrize("is_shared", [True, False])
def test_images_that_the_sites_have_too_are_told_wherever_they_lie(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    is_shared: bool,
) -> None:
    settings = PhantomSettings(sites=2, cases=4, spatial_dims=2, voxel_mm=4.0)
    write_phantoms(tmp_path / "data", settings)
    write_phantoms(tmp_path / "mine", settings if is_shared else replace(settings, seed=1))
    experiment = f'{TINY}[evaluation]\nserver_data = "{tmp_path / "mine"}"\n[federation]\nrounds = 1\n'
    (tmp_path / "tiny.toml").write_text(experiment)
    words = ("run", tmp_path / "tiny.toml", "--data", tmp_path / "data", "--out", tmp_path / "out")
    outcome = caller(monkeypatch, capsys)(*words, "--cache", tmp_path / "cache")
    assert outcome.code == 0, outcome.err
    told = "server_data holds 8 of the sites' own images" in " ".join((outcome.out + outcome.err).split())
    assert told == is_shared
