"""How many lines of a ledger go to bytes that are no request: few, so that a flood of them fills no disk."""

from collections import deque

LINES_AN_HOUR = 20  # with those that count: 300 kB a day
HOUR_S = 3600.0


class TurnedAway:
    """Lines of the last hour, and what came beyond them. Times are seconds since 1970."""

    def __init__(self) -> None:
        self.n_more = 0  # came when there was no room, and stands in no line yet
        self._times: deque[float] = deque(maxlen=LINES_AN_HOUR)

    def has_room(self, now: float) -> bool:
        """Whether a line may be added."""
        return len(self._times) < LINES_AN_HOUR or now - self._times[0] >= HOUR_S

    def add(self, at: float, n_more: int | None) -> None:
        """Count a line: one of refused bytes, or one that tells of `n_more`."""
        self._times.append(at)
        if n_more:
            self.n_more = 0
