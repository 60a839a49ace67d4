"""A checkpoint is found again whole, or passed over with a line that says why."""

import os
from pathlib import Path

import numpy as np
import pytest

from medseg_core.errors import CheckpointError, StorageError, UnusableFolderError
from medseg_core.federation.algorithms.base import ServerState
from medseg_core.federation.checkpoint import (
    Checkpoint,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from medseg_core.learning.identity import global_sha256

FILES = ["manifest.json", "memory.safetensors", "state.json", "weights.safetensors"]


def make_state(round_number: int, *, momentum: bool = True) -> ServerState:
    weights = {"b.w": np.full((2, 2), round_number, np.float32), "a": np.array(0.5, np.float32)}
    memory = {"momentum": {"b.w": np.full((2, 2), 0.1, np.float32)}} if momentum else {}
    return ServerState(weights, memory, round_number, {"north": (round_number, 2)} if round_number else {})


def save(folder: Path, *rounds: int) -> None:
    for number in rounds:
        save_checkpoint(folder, make_state(number), {"history": [number]})


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    lines: list[str] = []
    return newest_checkpoint(folder, on_torn=lines.append), lines


def round_found(folder: Path) -> int | None:
    checkpoint, _ = newest(folder)
    return None if checkpoint is None else checkpoint.state.round


def fail(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("momentum", [True, False])
def test_a_saved_state_comes_back_bit_for_bit(tmp_path: Path, momentum: bool) -> None:
    state = make_state(7, momentum=momentum)
    path = save_checkpoint(tmp_path / "checkpoints", state, {"history": [{"dice": 0.8}], "best": None})
    back = load_checkpoint(path)
    assert path.name == "round_0007"
    assert {n: a.tobytes() for n, a in back.state.weights.items()} == {
        n: a.tobytes() for n, a in state.weights.items()
    }
    assert back.state.weights["a"].shape == ()
    assert {k: sorted(t) for k, t in back.state.memory.items()} == ({"momentum": ["b.w"]} if momentum else {})
    assert (back.state.round, back.state.counted) == (7, {"north": (7, 2)})
    assert back.record == {"history": [{"dice": 0.8}], "best": None}
    assert back.global_sha256 == global_sha256(state.weights)


def test_the_same_state_gives_the_same_files(tmp_path: Path) -> None:
    save(tmp_path / "one", 3)
    save(tmp_path / "two", 3)
    for name in FILES:
        assert (tmp_path / "one/round_0003" / name).read_bytes() == (
            tmp_path / "two/round_0003" / name
        ).read_bytes()


def test_a_loaded_state_is_read_only(tmp_path: Path) -> None:
    save(tmp_path, 1)
    state = load_checkpoint(tmp_path / "round_0001").state
    with pytest.raises(ValueError, match="read-only"):
        state.memory["momentum"]["b.w"][0, 0] = 1.0


def test_the_newest_is_by_number_not_by_time_or_spelling(tmp_path: Path) -> None:
    save(tmp_path, 10_000, 2, 9999)
    assert round_found(tmp_path) == 10_000


def test_an_absent_or_empty_folder_has_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "absent") == (None, [])
    assert newest(tmp_path) == (None, [])


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed_and_the_one_before_is_taken(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1, 2)
    file = tmp_path / "round_0002" / name
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        checkpoint, lines = newest(tmp_path)
        if checkpoint is not None and checkpoint.state.round == 2:  # white space between keys of the manifest
            assert name == "manifest.json"
            assert chr(whole[position]).isspace()
            continue
        assert checkpoint is not None
        assert checkpoint.state.round == 1
        assert len(lines) == 1
        assert "round_0002 has " in lines[0]


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_noticed(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1, 2)
    file = tmp_path / "round_0002" / name
    for length in (0, 1, file.stat().st_size - 2):
        file.write_bytes(file.read_bytes()[:length])
        checkpoint, lines = newest(tmp_path)
        assert checkpoint is not None
        assert checkpoint.state.round == 1
        assert len(lines) == 1
        assert f"damaged {name}" in lines[0]
        assert "Resume goes on from the one before it" in lines[0]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "round_0002" / name).unlink()
    assert round_found(tmp_path) == 1


def test_a_file_that_the_manifest_leaves_out_is_missed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "round_0001/manifest.json").write_text('{"format": 1, "files": {}}')
    with pytest.raises(CheckpointError, match=r"has no state\.json"):
        load_checkpoint(tmp_path / "round_0001")


def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "round_0001/manifest.json").write_text('{"format": 1, "files": {"../../secret": "00"}}')
    with pytest.raises(CheckpointError, match=r"damaged manifest\.json"):
        load_checkpoint(tmp_path / "round_0001")


def test_a_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / "round_0003").rename(tmp_path / "round_0008")
    checkpoint, lines = newest(tmp_path)
    assert checkpoint is None
    assert "round_0008 holds round 3" in lines[0]


def test_all_torn_means_none_with_a_line_for_each(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for number in (1, 2):
        (tmp_path / f"round_000{number}/weights.safetensors").write_bytes(b"")
    checkpoint, lines = newest(tmp_path)
    assert checkpoint is None
    assert ["round_0002" in lines[0], "round_0001" in lines[1]] == [True, True]


def test_what_a_killed_writer_left_is_never_taken_and_removed_later(tmp_path: Path) -> None:
    save(tmp_path, 1)
    leftover = tmp_path / ".round_0002.4711.tmp"
    leftover.mkdir()
    (leftover / "weights.safetensors").write_bytes(b"half")
    assert newest(tmp_path)[1] == []
    assert round_found(tmp_path) == 1
    prune_checkpoints(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["round_0001"]


def test_saving_a_round_again_replaces_a_torn_one(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / "round_0002/weights.safetensors").unlink()
    (tmp_path / "round_0002/stray").mkdir()
    save(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "round_0002").iterdir()) == FILES
    assert [p.name for p in tmp_path.iterdir()] == ["round_0002"]


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename"])
def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, fail)
        with pytest.raises(UnusableFolderError, match=r"No space left on device\. .*free space") as caught:
            save(tmp_path, 2)
    assert isinstance(caught.value, StorageError)
    assert round_found(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["round_0001"]


def test_figures_that_are_not_finite_are_stored_as_null(tmp_path: Path) -> None:
    path = save_checkpoint(
        tmp_path, make_state(1), {"loss": float("nan"), "hd95": float("inf"), "sites": ("a", "b")}
    )
    assert load_checkpoint(path).record == {"loss": None, "hd95": None, "sites": ["a", "b"]}


def test_the_newest_two_and_the_pinned_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 0, 1, 2, 3, 4, 5)
    (tmp_path / "notes").mkdir()
    prune_checkpoints(tmp_path, pinned={2})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "round_0002", "round_0004", "round_0005"]


def test_pruning_an_absent_folder_does_nothing(tmp_path: Path) -> None:
    prune_checkpoints(tmp_path / "absent", pinned={1})
    assert not (tmp_path / "absent").exists()


def test_a_checkpoint_that_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, 2, 3)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UnusableFolderError, match="No space left"):
        prune_checkpoints(tmp_path)


def test_the_identity_of_a_model_depends_on_names_shapes_and_bits_alone() -> None:
    weights = make_state(1).weights
    assert global_sha256(dict(reversed(weights.items()))) == global_sha256(weights)
    assert global_sha256({**weights, "b.w": np.asfortranarray(weights["b.w"])}) == global_sha256(weights)
    others = [
        {"c.w": weights["b.w"], "a": weights["a"]},
        {**weights, "b.w": weights["b.w"].reshape(4)},
        {**weights, "b.w": np.nextafter(weights["b.w"], np.float32(9))},
        {**weights, "a": np.array(-0.0, np.float32)},
        {**weights, "a": np.array(0.0, np.float32)},
    ]
    assert len({global_sha256(other) for other in [weights, *others]}) == 6


def test_the_identity_of_a_known_model_never_changes() -> None:
    known = "fcc1157d08e98b57f235e35340f4de5b86a5d054c1dfd28f622d6f5e15d5f768"
    assert global_sha256({"w": np.array([1.0, -2.5], np.float32)}) == known
