"""Several pieces of work in threads of this process, stopped together."""

import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

INTERRUPTIBLE_S = 0.5  # Windows hears Ctrl-C only between waits

T = TypeVar("T")


def side_by_side(
    work: Mapping[str, Callable[[], T]], *, at_once: int, stop: threading.Event
) -> Generator[tuple[str, Future[T]], None, None]:
    """Start the pieces in their order, `at_once` of them at the same time; each by its name when it is done.

    When the caller goes away early, pieces that have not begun never do, and `stop` is set for the others to heed.
    """
    with ThreadPoolExecutor(at_once, "side_by_side") as pool:
        pending = {pool.submit(piece): name for name, piece in work.items()}
        try:
            while pending:
                for done in wait(pending, INTERRUPTIBLE_S, FIRST_COMPLETED).done:
                    yield pending.pop(done), done
        except BaseException:  # GeneratorExit and Ctrl-C among them
            stop.set()
            for piece in pending:
                piece.cancel()
            raise
