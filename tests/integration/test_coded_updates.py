"""Updates written by a codec, through the whole loop: fewer bytes, the same run but for rounding, and no bit lost."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    initial_weights,
    make_experiment,
    make_federation,
    make_site_data,
    newest_sha256,
    newest_weights,
)

from medseg_core.config import Experiment
from medseg_core.federation.update import Tensors
from medseg_server.rounds import train

SITES = ("east", "north", "south")
CODECS = ("fp16", "bf16", "int8", "topk")


def experiment_of(codec: str, rounds: int = 3, **more: Any) -> Experiment:
    return make_experiment(federation={"rounds": rounds, **more}, codec={"name": codec})


def run_in(folder: Path, experiment: Experiment) -> Any:
    data = {site: make_site_data(site, train=1 + n % 2) for n, site in enumerate(SITES)}
    return make_federation(folder, experiment, data)


def distance(a: Tensors, b: Tensors) -> float:
    return float(np.sqrt(sum(float(np.square(a[name] - b[name]).sum()) for name in a)))


def bytes_up(run: Any) -> int:
    return sum(c["bytes_up"] for e in run.store.events("round_finished") for c in e["contributed"].values())


@pytest.mark.parametrize("codec", CODECS)
def test_a_crash_after_any_round_changes_no_bit(tmp_path: Path, codec: str) -> None:
    experiment = experiment_of(codec)
    whole = run_in(tmp_path / "whole", experiment)
    train(whole)

    def crash(record: dict[str, Any]) -> None:
        if record["round"] == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(replace(run_in(tmp_path / "broken", experiment), on_round=crash))
    again = run_in(tmp_path / "broken", experiment)
    train(again)
    assert newest_sha256(again.store) == newest_sha256(whole.store)


def test_a_run_with_codecs_ends_near_the_one_without(tmp_path: Path) -> None:
    runs = {codec: run_in(tmp_path / codec, experiment_of(codec, rounds=6)) for codec in ("fp32", *CODECS)}
    for run in runs.values():
        train(run)
    start, end = initial_weights(experiment_of("fp32")), newest_weights(runs["fp32"])
    moved = distance(start, end)

    away = {codec: distance(end, newest_weights(run)) / moved for codec, run in runs.items()}

    assert away["fp16"] < away["int8"] < 0.2
    assert bytes_up(runs["topk"]) < bytes_up(runs["int8"]) < bytes_up(runs["fp16"]) < bytes_up(runs["fp32"])


def test_what_is_left_over_stays_at_the_site(tmp_path: Path) -> None:
    run = run_in(tmp_path, experiment_of("topk"))
    train(run)

    kept = sorted(tmp_path.rglob("memory.safetensors"))
    assert kept
    assert b"left_over/" in kept[-1].read_bytes()
