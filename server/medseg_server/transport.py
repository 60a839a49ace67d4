"""How envelopes reach the sites and come back: the seam between the round loop and what carries it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Delivery:
    """What came of one request: the bytes of a reply, or the reason why there are none."""

    site: str
    envelope: bytes | None
    absence: str = ""  # a short phrase without free text from the site


@runtime_checkable
class Transport(Protocol):
    """Carries envelopes; believes nothing in them. In process, Ray or Flower."""

    def sites(self) -> tuple[str, ...]:
        """Sites that can be asked now, in alphabetical order."""
        ...

    def exchange(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[Delivery]:
        """Send each site its request; yield deliveries in order of arrival, and an absence for who did not answer."""
        ...
