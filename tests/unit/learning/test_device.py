"""Which device trains, and what its process keeps."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from medseg_core.errors import DeviceError
from medseg_core.learning import device
from medseg_core.learning.device import (
    choose_device,
    keep_freed_memory,
    return_freed_memory,
    usable_cores,
)


def test_a_device_that_is_not_here_is_refused_with_those_that_are():
    with pytest.raises(DeviceError, match="cpu"):
        choose_device("cuda:99")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "12800000 100000\n"}, 64),
        ({"cpu.max": "0 100000\n"}, 1),
        ({"cpu.max": ""}, 64),
        ({"cpu.max": "100000 0\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_a_container_may_use_no_more_cores_than_its_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    """A limit of 2 on a machine of 64: 64 sites at once would need the memory of 64, at the pace of 2."""
    monkeypatch.setattr(device, "CGROUPS", tmp_path)
    monkeypatch.setattr(device.psutil.Process, "cpu_affinity", lambda _: list(range(64)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_process_that_trains_on_a_cpu_keeps_the_memory_of_large_tensors_until_it_returns_it():
    """Each fresh page is a page fault: a tensor of 64 MiB takes none where one of 128 MiB was, in threads too."""
    program = """
        import resource, threading, torch
        from medseg_core.learning.device import keep_freed_memory, return_freed_memory
        keep_freed_memory()
        def faults():
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        def work(then=lambda: None):
            torch.ones(2**25)
            then()
            before = faults()
            torch.ones(2**24)
            print(faults() - before)
        work()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        work(return_freed_memory)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    kept, kept_in_thread, returned = (int(n_faults) for n_faults in run.stdout.split())
    assert max(kept, kept_in_thread) < 100
    assert returned > 10_000


def test_where_no_c_library_can_be_asked_nothing_is_done(monkeypatch: pytest.MonkeyPatch):
    def windows(name: None):
        raise TypeError("expected str, bytes or os.PathLike object, not NoneType")

    monkeypatch.setattr(device.ctypes, "CDLL", windows)
    keep_freed_memory()
    return_freed_memory()


@pytest.mark.parametrize(
    ("largest", "taken"),
    [(2**40, [2**30, 2**31 - 1, 1]), (2**25, [2**30, 2**25, 2**31 - 1, 1]), (0, [2**30, 2**25])],
    ids=["glibc that grants it", "older glibc", "another library"],
)
def test_freed_memory_is_kept_as_far_as_the_c_library_grants(
    monkeypatch: pytest.MonkeyPatch, largest: int, taken: list[int]
):
    asked: list[int] = []

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            asked.append(value)
            return int(parameter != -3 or value <= largest)  # -3: the largest block that is kept

    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: Library())
    keep_freed_memory()
    assert asked == taken
