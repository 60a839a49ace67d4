"""Where the time of a training step goes: a trace of a few steps, by PyTorch's profiler."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

# calls before the first step; steps in which the profiler settles; those in the trace
FIRST, WARM_UP, STEPS = 1, 1, 3

TRACE_FILE = "profile.json.gz"
Learn = Callable[..., Any]
NOT_TRAINED = "the run was finished, and nothing was trained. Choose another --out"
TOO_SHORT = "no round was trained of four steps or more. Raise --local-epochs"


class StepTrace:
    """Writes `path`, once: steps of whichever site of this process begins to train first.

    Chrome's format, which https://ui.perfetto.dev and chrome://tracing show; packed where it ends in .gz. Watching
    changes no result. A round of fewer than four steps, of which the first is left out, gives nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.has_watched = False
        self._to_do = threading.Lock()

    @property
    def why_absent(self) -> str:
        """Why there is no trace after a run that ended without one, and the remedy."""
        return TOO_SHORT if self.has_watched else NOT_TRAINED

    def of(self, learn: Learn) -> Learn:
        """`learn` (as `train_locally`), watched if it is the first to be called."""

        def watched(*args: Any, is_over: Callable[[], bool] = lambda: False, **how: Any) -> Any:
            if not self._to_do.acquire(blocking=False):
                return learn(*args, is_over=is_over, **how)
            return self._watch(learn, is_over, *args, **how)

        return watched

    def _watch(self, learn: Learn, is_over: Callable[[], bool], *args: Any, **how: Any) -> Any:
        """`is_over` is asked before every step: there one ends for the profiler."""
        self.has_watched = True
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        plan = schedule(wait=FIRST, warmup=WARM_UP, active=STEPS, repeat=1)
        n_asked, written = 0, False

        def write(profiler: profile) -> None:
            nonlocal written
            if n_asked < WARM_UP + STEPS:  # the round ended before
                return
            profiler.export_chrome_trace(str(self.path))
            written = True

        try:
            with profile(activities=kinds, schedule=plan, on_trace_ready=write) as profiler:

                def ask() -> bool:
                    nonlocal n_asked
                    profiler.step()
                    n_asked += 1
                    return is_over()

                return learn(*args, is_over=ask, **how)
        finally:
            if not written:  # too few steps: another round may have more
                self._to_do.release()
