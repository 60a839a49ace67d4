"""How envelopes reach the sites and come back: the seam between the round loop and what carries it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from medseg_core.wire.envelope import Envelope


@dataclass(frozen=True)
class Delivery:
    """What came of one request: the bytes of a reply, or the reason why there are none."""

    site: str
    envelope: bytes | None
    absence: str = ""  # a short phrase without free text from the site


class Outbox(Mapping[str, bytes]):
    """Requests as bytes, made when the transport takes one: the model that they carry is in memory once.

    Whoever takes the deliveries may `put` another request to a site that has answered; the transport asks it then.
    """

    def __init__(self, envelopes: Mapping[str, Envelope]) -> None:
        self._envelopes, self._anew = dict(envelopes), list[str]()

    def __getitem__(self, site: str) -> bytes:
        return self._envelopes[site].to_bytes()

    def __iter__(self) -> Iterator[str]:
        return iter(self._envelopes)

    def __len__(self) -> int:
        return len(self._envelopes)

    def put(self, site: str, envelope: Envelope) -> None:
        """Another request to a site."""
        self._envelopes[site] = envelope
        self._anew.append(site)

    def take_anew(self) -> list[str]:
        """The sites that were given another request since the last look."""
        anew, self._anew = self._anew, []
        return anew


def asked_anew(requests: Mapping[str, bytes]) -> list[str]:
    """The sites to be asked once more."""
    return requests.take_anew() if isinstance(requests, Outbox) else []


@runtime_checkable
class Transport(Protocol):
    """Carries envelopes; believes nothing in them. In process, Ray or Flower."""

    def sites(self) -> tuple[str, ...]:
        """Sites that can be asked now, in alphabetical order."""
        ...

    def exchange(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[Delivery]:
        """Send each site its request; yield deliveries in order of arrival, and an absence for who did not answer.

        A site that is given another request meanwhile (`asked_anew`) is asked again.
        """
        ...
