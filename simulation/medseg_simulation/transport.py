"""The in-process transport: the same envelopes, handed to trainers in this process one after the other."""

from collections.abc import Iterator, Mapping

from medseg_client.trainer import Trainer
from medseg_core.errors import WireError
from medseg_server.transport import Delivery


class InProcessTransport:
    """Carries envelopes to `trainers` in alphabetical order.

    A fault at a virtual site is raised, not coded: its owner sits here.
    """

    def __init__(self, trainers: Mapping[str, Trainer], faults: list[Exception]) -> None:
        self._trainers, self._faults = dict(sorted(trainers.items())), faults

    def sites(self) -> tuple[str, ...]:
        """All virtual sites."""
        return tuple(self._trainers)

    def exchange(self, requests: Mapping[str, bytes], deadline_s: float) -> Iterator[Delivery]:  # noqa: ARG002
        """Ask one site after the other.

        They would work at the same time in a federation, so a deadline says nothing here; and a result must not
        depend on the clock.
        """
        for site in sorted(requests):
            try:
                yield Delivery(site, self._trainers[site].handle(requests[site]))
            except WireError as error:
                yield Delivery(site, None, error.code)
            if self._faults:
                raise self._faults[0]
