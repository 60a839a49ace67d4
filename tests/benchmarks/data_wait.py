"""How long training waits for data, and what a second start reads.

    python tests/benchmarks/data_wait.py DATA --cache FOLDER [--preset hippocampus] [--turns 3] [--threads N]

DATA is the data set of the preset. The share is that of a site's whole step, with the preset's threads, batch and
augmentation: the time between asking for patches and having them. A start is the reading of the manifest and of every
case, prepared or from the cache; the second one is watched by the kernel (inotify, so on Linux alone). The last line is
JSON.
"""

# ruff: noqa: T201
import argparse
import ctypes
import json
import os
import statistics
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from medseg_core.cohort.cache import prepare_cohort
from medseg_core.cohort.preprocess import PreprocessedCase
from medseg_core.config import Experiment
from medseg_core.learning.local_rule import LocalRule
from medseg_core.learning.local_training import RoundContext, train_locally
from medseg_core.learning.networks import build_network
from medseg_core.learning.weights import get_weights
from medseg_simulation.preset_files import read_preset

SHARE_AIM = 0.05  # below
TRAINING_CASES = 40  # of one site
IN_OPEN, HEADER = 0x20, struct.Struct("iIII")  # <sys/inotify.h>: watch, mask, cookie, bytes of the name


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--preset", default="hippocampus")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, help="as the preset says, if not given")
    options = parser.parse_args()
    experiment = read_preset(options.preset)
    torch.set_num_threads(options.threads or experiment.training.cpu_threads)

    def start() -> list[PreprocessedCase]:
        return prepare_cohort(options.data, experiment.task, options.cache, threads=1, on_warning=print)

    began = time.perf_counter()
    cases = start()
    first_s = time.perf_counter() - began
    rows = []
    if sys.platform == "linux":
        sources = {path for case in cases for path in (*case.case.images, case.case.label) if path}
        second_s, opened = opened_in(sources, start)
        print(
            f"start: {first_s:.2f} s; second start: {second_s:.2f} s, {opened} of {len(sources)} files opened"
        )
        rows.append(row("images and labels that a second start opens", opened, "files", "0", opened == 0))
    shares = [waiting_share(cases[:TRAINING_CASES], experiment) for _ in range(options.turns + 1)][1:]
    share = statistics.median(shares)
    what = f"share of a training step that waits for data, {options.preset} preset"
    rows.append(row(what, round(share, 4), "", f"below {SHARE_AIM}", share < SHARE_AIM))
    print(json.dumps({"rows": rows, "shares": shares}))


def row(what: str, value: float, unit: str, aim: str, reached: bool) -> dict[str, object]:
    return {"what": what, "value": value, "unit": unit, "aim": aim, "reached": reached}


def opened_in(sources: set[Path], work: Callable[[], object]) -> tuple[float, int]:
    """Seconds of `work`, and how many of the files any process opened meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init1(os.O_NONBLOCK)
    folders = {
        libc.inotify_add_watch(watcher, bytes(folder), IN_OPEN): folder
        for folder in {p.parent for p in sources}
    }
    if watcher < 0 or min(folders) < 0:
        raise OSError(ctypes.get_errno(), "inotify cannot watch the folders of the images")
    began = time.perf_counter()
    work()
    took_s = time.perf_counter() - began
    try:
        events = os.read(watcher, 1 << 24)
    except BlockingIOError:
        events = b""
    os.close(watcher)
    found, at = set(), 0
    while at < len(events):
        folder, _, _, length = HEADER.unpack_from(events, at)
        name = events[at + HEADER.size :][:length].rstrip(b"\0").decode()
        found.add(folders[folder] / name)
        at += HEADER.size + length
    return took_s, len(found & sources)


def waiting_share(cases: Sequence[PreprocessedCase], experiment: Experiment) -> float:
    """Of one pass over the cases."""
    federation = experiment.federation.model_copy(update={"local_epochs": 1})
    settings = experiment.model_copy(update={"federation": federation})
    network = build_network(experiment.task, experiment.model, seed=0)
    report, _ = train_locally(
        network,
        cases,
        settings,
        context=RoundContext("bench", 1),
        start=get_weights(network),
        rule=LocalRule(),
    )
    return report.waiting_s / (report.waiting_s + report.training_s)


if __name__ == "__main__":
    main()
