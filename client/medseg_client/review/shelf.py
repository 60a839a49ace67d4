"""The few things that were used last; those before them are let go, so that memory stays flat over many cases."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """Opens a thing by its name when it is first asked for; one at a time, whoever asks."""

    def __init__(self, open_: Callable[[str], T], room: int) -> None:
        self._open, self._room = open_, room
        self._held: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> T:
        """The thing of that name. Raises what opening it raises, each time anew."""
        with self._lock:
            if name not in self._held:
                while len(self._held) >= self._room:
                    self._held.popitem(last=False)
                self._held[name] = self._open(name)
            self._held.move_to_end(name)
            return self._held[name]
