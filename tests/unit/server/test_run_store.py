"""A run folder is started once, resumed by its own experiment alone, and says what is wrong with its disk."""

import json
import os
from pathlib import Path

import pytest
from builders import ScriptedTransport, constant_update, make_experiment, make_run, scripted_site

from medseg_core.errors import OccupiedFolderError, UnusableFolderError
from medseg_server.errors import DifferentDataError, DifferentExperimentError
from medseg_server.rounds import train
from medseg_server.run_store import RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "out")
    store.open(make_experiment(), run="first", resume=False)
    return store


def test_a_new_folder_takes_the_run_s_name_and_a_resumed_one_keeps_it(store: RunStore) -> None:
    assert store.open(make_experiment(), run="second", resume=True) == "first"


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_a_run_that_lost_its_name_is_not_gone_on_with(store: RunStore, content: bytes | None) -> None:
    (store.folder / "run.json").unlink()
    if content is not None:
        (store.folder / "run.json").write_bytes(content)
    with pytest.raises(UnusableFolderError, match=r"its run\.json is missing or damaged"):
        store.open(make_experiment(), run="second", resume=True)


def test_resume_of_an_empty_folder_starts_a_run(tmp_path: Path) -> None:
    assert RunStore(tmp_path).open(make_experiment(), run="first", resume=True) == "first"


def test_an_occupied_folder_is_refused(store: RunStore) -> None:
    with pytest.raises(OccupiedFolderError, match="Add --resume"):
        store.open(make_experiment(), run="second", resume=False)


def test_another_experiment_is_refused(store: RunStore) -> None:
    other = make_experiment(training={"learning_rate": 0.02})
    with pytest.raises(DifferentExperimentError, match="another --out"):
        store.open(other, run="second", resume=True)


def test_a_run_goes_on_with_the_data_of_its_start_alone(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.open(make_experiment(), run="first", resume=False, data_sha256="one")
    assert store.open(make_experiment(), run="second", resume=True, data_sha256="one") == "first"
    with pytest.raises(
        DifferentDataError, match=r"images or labels are not those of its start.*another --out"
    ):
        store.open(make_experiment(), run="second", resume=True, data_sha256="other")


def test_a_run_of_an_earlier_release_that_did_not_name_its_data_goes_on(store: RunStore) -> None:
    assert store.open(make_experiment(), run="second", resume=True, data_sha256="one") == "first"


def test_every_kind_of_setting_survives_the_file(tmp_path: Path) -> None:
    experiment = make_experiment(
        task={"labels": {"organ": [1, 2], "lesion": "nonzero"}, "spacing_mm": [1, 0.1], "ignore_value": 9},
        training={
            "augmentation": {"flip": [True, False], "scaling_range": [0.9, 1.1]},
            "learning_rate": 1e-7,
        },
        federation={"required_sites": ["north"], "max_update_norm": 12, "quorum": 1},
        simulation={"baselines": ["local"], "pooled": {"learning_rate": 0.5}, "folds": 3},
    )
    RunStore(tmp_path).open(experiment, run="first", resume=False)
    assert RunStore(tmp_path).open(experiment, run="first", resume=True) == "first"


def test_a_start_that_was_killed_before_the_experiment_was_written_starts_again(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"run": "half"}')
    assert RunStore(tmp_path).open(make_experiment(), run="whole", resume=False) == "whole"


@pytest.mark.parametrize("bad", ["a-file/out", "n" * 300])
def test_a_folder_that_cannot_be_made_gets_a_sentence(tmp_path: Path, bad: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(UnusableFolderError, match="Choose another folder"):
        RunStore(tmp_path / bad).open(make_experiment(), run="first", resume=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is Linux's")
def test_a_full_disk_gets_a_sentence(store: RunStore) -> None:
    (store.folder / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(UnusableFolderError, match="No space left"):
        store.event("started")


def test_a_disk_that_fills_during_a_run_stops_it_and_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment()
    answers = {"north": scripted_site("north", constant_update(experiment, 0.1))}

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("medseg_core.federation.checkpoint.write_synced", full)
        with pytest.raises(UnusableFolderError, match="No space left"):
            train(make_run(tmp_path, experiment, ScriptedTransport(answers)))
    assert not list((tmp_path / "checkpoints").iterdir())
    assert len(train(make_run(tmp_path, experiment, ScriptedTransport(answers))).history) == 2


def test_events_of_one_kind_come_back_in_order(store: RunStore) -> None:
    for number in (1, 2):
        store.event("round_started", round=number)
        store.event("evaluated", round=number)
    assert [e["round"] for e in store.events("round_started")] == [1, 2]
    assert store.events("unheard of") == []


@pytest.mark.parametrize(
    "torn", [b'{"time": 1, "event": "rou', b'{"event": "x"}', b"\x00\x00\x00", b"\xff\xfe{", b"7"]
)
def test_a_torn_last_line_costs_neither_the_lines_before_nor_those_after(
    store: RunStore, torn: bytes
) -> None:
    store.event("round_started", round=1)
    with (store.folder / "events.jsonl").open("ab") as file:
        file.write(torn)
    assert [e["round"] for e in store.events("round_started")] == [1]
    store.event("round_started", round=2)
    assert [e["round"] for e in store.events("round_started")] == [1, 2]


def test_a_whole_line_that_is_only_missing_its_end_is_kept(store: RunStore) -> None:
    store.event("round_started", round=1)
    events = store.folder / "events.jsonl"
    os.truncate(events, events.stat().st_size - 1)
    store.event("round_started", round=2)
    assert [json.loads(line)["round"] for line in events.read_text().splitlines()] == [1, 2]
