"""nginx is told to read again when what it read has changed, and at no other time."""

import threading
import time
from pathlib import Path

import pytest

from medseg_core import reloading
from medseg_core.reloading import addresses, content, follow


def test_every_change_is_followed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "LOOK_S", 0.02)
    file, stop, read = tmp_path / "bindings", threading.Event(), list[bytes | None]()
    thread = threading.Thread(
        target=follow, args=(lambda: content(file), lambda: read.append(content(file)), stop)
    )
    thread.start()
    try:
        for number, data in enumerate((b"one", b"two"), start=1):
            time.sleep(0.1)
            file.write_bytes(data)
            end = time.monotonic() + 20
            while len(read) < number:
                assert time.monotonic() < end
                time.sleep(0.02)
        time.sleep(0.2)
    finally:
        stop.set()
        thread.join()
    assert read[-1] == b"two"
    assert 2 <= len(read) <= 4  # a file may be seen while it is written


def test_a_file_that_is_not_there_and_a_name_that_nobody_knows_are_states_like_others(tmp_path: Path) -> None:
    assert content(tmp_path / "none") is None
    assert addresses("no-such-host.invalid") == ()
    assert addresses("127.0.0.1") == ("127.0.0.1",)
